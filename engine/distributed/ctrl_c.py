"""Ctrl-C (SIGINT) outside training, or a second one within it: the process ends at once, one line, exit code 130."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

from engine.core import UserError
from engine.distributed import launcher

INTERRUPTED = 130  # as shells say of a process that Ctrl-C ended
GRACE = 3.0  # seconds for what is unwound, such as temporary folders


@contextlib.contextmanager
def ends_at_once() -> Iterator[None]:
    """Within, Ctrl-C ends this process where nothing else takes it. Where it is ignored (nohup), it stays ignored."""
    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:
        signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    except KeyboardInterrupt:
        leave()
    finally:
        signal.signal(signal.SIGINT, before)


def interrupt(number: int, frame: FrameType | None) -> None:
    """A handler for SIGINT.

    Raises:
        KeyboardInterrupt: always. A library may swallow it, in a destructor for one; the process still ends after
            ``GRACE`` seconds.
    """
    last = threading.Timer(GRACE, leave)
    last.daemon = True
    last.start()
    raise KeyboardInterrupt


def leave() -> None:
    """Threads may be writing or waiting for a server, and other ranks wait in a collective: nothing is waited for."""
    is_main_process = launcher.launcher_rank(os.environ) == 0
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        if is_main_process:
            print(
                "interrupted; run the same command again to continue from what is on disk", file=sys.stderr, flush=True
            )
    file = os.environ.get("EXIT_CODE_FILE")
    if file and is_main_process:
        with contextlib.suppress(OSError), open(file, "w") as stream:
            stream.write(f"{INTERRUPTED}\n")
    os._exit(INTERRUPTED)


def signal_number(name: str) -> signal.Signals:
    """``USR1`` or ``SIGUSR1``.

    Raises:
        UserError: there is no such signal, or a process cannot catch it.
    """
    found = getattr(signal, "SIG" + name.upper().removeprefix("SIG"), None)
    if not isinstance(found, signal.Signals) or found in (signal.SIGKILL, signal.SIGSTOP):
        raise UserError(f"preempt_signal: must be a signal that a process can catch, for example USR1; got {name!r}")
    return found
