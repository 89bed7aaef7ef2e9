"""Jobs without the price of their imports: a process that has imported torch, DeepSpeed and the engine, and forks ranks
on request.

    python -m tests.faults.forkserver < one JSON order a line > one process id a line

A rank is a fork that runs train.py's own main with its own environment and output. Several ranks are started and
watched by torchrun's own agent, of which only the call that would start a new interpreter is replaced. When a job's
launcher has ended, its exit code stands in the file ``code`` of the order.
"""

import contextlib
import ctypes
import json
import os
import select
import signal
import struct
import subprocess
import sys
import time
import traceback
from typing import Any

from engine.core.privacy import protect

protect()
os.environ.setdefault("DS_ACCELERATOR", "cpu")

import deepspeed  # noqa: E402, F401
import torch.distributed.run as torchrun  # noqa: E402
import transformers  # noqa: E402, F401
from torch.distributed.elastic.multiprocessing.subprocess_handler import subprocess_handler  # noqa: E402

import engine.evaluation.evaluate  # noqa: E402, F401
import engine.recipes.distill  # noqa: E402, F401
import engine.training.teach_and_distill  # noqa: E402, F401
import engine.training.teachers.cache  # noqa: E402, F401
import train  # noqa: E402


def be_bound_by_modes() -> None:
    """Root without the right to pass over mode bits (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH); nothing to do for
    anyone else.
    """
    if os.geteuid() == 0:
        header, none = struct.pack("Ii", 0x20080522, 0), struct.pack("6I", *[0] * 6)
        if ctypes.CDLL(None, use_errno=True).capset(header, none):
            raise OSError(ctypes.get_errno(), "capset")


def fork(run: Any, bound: bool = False) -> int:
    """A child in a process group of its own, from its start on, that runs and leaves, never returning here. -> its
    process id.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    with contextlib.suppress(OSError):
        os.setpgid(pid, pid)
    if pid:
        return pid
    code = 1
    try:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            signal.signal(number, signal.SIG_DFL)
        if bound:
            be_bound_by_modes()
        code = run() or 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


class ForkedRank:
    """What torchrun's agent asks of subprocess.Popen, of a fork."""

    def __init__(self, args: tuple[str, ...], env: dict[str, str], **_: Any):
        self.args, self.returncode = args, None

        def run() -> None:
            os.environ.clear()
            os.environ.update(env)
            train.main(list(args[args.index("train.py") + 1 :]))

        self.pid = fork(run)

    def poll(self) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        end = None if timeout is None else time.monotonic() + timeout
        while self.poll() is None:
            if end is not None and time.monotonic() > end:
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
            select.select([], [], [], 0.01)
        return self.returncode  # type: ignore[return-value]

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)


subprocess_handler.Popen = ForkedRank  # type: ignore[misc, assignment]


def job(order: dict[str, Any]) -> None:
    """A job's launcher: train.py itself for one rank, else torchrun's agent."""
    out = os.open(order["output"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o644)
    os.dup2(out, 1)
    os.dup2(out, 2)
    os.environ.update(order["env"])
    if order["ranks"] == 1:
        train.main(order["arguments"])
    else:
        here = ["--standalone", f"--nproc_per_node={order['ranks']}", "--monitor-interval=0.05"]
        torchrun.main([*here, "--no-python", "train.py", *order["arguments"]])


def serve() -> None:
    files: dict[int, str] = {}
    pending = b""
    while True:
        ready, _, _ = select.select([0], [], [], 0.02)
        if ready:
            piece = os.read(0, 1 << 16)
            if not piece:
                return
            *lines, pending = (pending + piece).split(b"\n")
            for line in lines:
                order = json.loads(line)
                pid = fork(lambda order=order: job(order), order["bound"])
                files[pid] = order["code"]
                print(pid, flush=True)
        while files:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                break
            file = files.pop(pid)
            with open(file + ".partial", "w") as stream:
                stream.write(str(os.waitstatus_to_exitcode(status)))
            os.replace(file + ".partial", file)


if __name__ == "__main__":
    serve()
