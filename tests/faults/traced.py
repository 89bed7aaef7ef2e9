"""A process that dies as it is about to make its k-th system call: at the operating system's border, whatever
library makes the call. Linux.
"""

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Callable

_TRACEME, _CONT_TO_SYSCALL, _SETOPTIONS, _EXITKILL, _SYSGOOD = 0, 24, 0x4200, 1 << 20, 1
_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = [ctypes.c_long] * 4
_libc.ptrace.restype = ctypes.c_long


def run(work: Callable[[], object], die_before: int = 0) -> int | None:
    """Do something in a child that is killed as it enters its k-th system call, counted from 1; 0 lets it live.

    Returns:
        The number of calls that it made, or None where it was killed.

    Raises:
        PermissionError: no process may be traced here. RuntimeError: it failed by itself.
    """
    pid = os.fork()
    if not pid:
        # coverage.py makes system calls of its own, for each new module and, to write a file, at Python's os._exit
        sys.settrace(None)
        threading.settrace(None)  # type: ignore[arg-type]
        try:
            if _libc.ptrace(_TRACEME, 0, 0, 0):
                _libc._exit(77)
            os.kill(os.getpid(), signal.SIGSTOP)
            work()
            _libc._exit(0)
        finally:
            _libc._exit(1)
    calls, entering, pending = 0, True, 0
    _, status = os.waitpid(pid, 0)
    if os.WIFSTOPPED(status):
        _libc.ptrace(_SETOPTIONS, pid, 0, _EXITKILL | _SYSGOOD)
    while os.WIFSTOPPED(status):
        if os.WSTOPSIG(status) == signal.SIGTRAP | 0x80:
            calls += entering
            if entering and calls == die_before:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                return None
            entering, pending = not entering, 0
        else:
            pending = 0 if os.WSTOPSIG(status) == signal.SIGSTOP else os.WSTOPSIG(status)
        _libc.ptrace(_CONT_TO_SYSCALL, pid, 0, pending)
        _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    if code == 77:
        raise PermissionError("ptrace is not allowed here")
    if code:
        raise RuntimeError(f"the traced process ended by itself with {code}")
    return calls
