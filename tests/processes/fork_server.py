"""Python processes without the price of their imports (torch, DeepSpeed and transformers: 5 to 7 s a process).

``python()`` stands in for ``sys.executable`` at the head of a command. One server per pytest process forks on request;
it starts when it is first needed. NEW_INTERPRETERS=1 gives every command a new interpreter, as a user's has.
"""

import atexit
import contextlib
import os
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
LONGEST_START = 120  # seconds that the server's imports may take on a loaded machine
LAUNCHER = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")  # a server is no rank of anything


def python() -> list[str]:
    """The head of a command that runs a script, ``-m`` or ``-c`` in an interpreter with the libraries imported."""
    if os.environ.get("NEW_INTERPRETERS"):
        return [sys.executable]
    return _server().python()


def torchrun(ranks: int) -> list[str]:
    """The head of a command with several ranks; ``--`` and the script follow."""
    return [*python(), "-m", "torch.distributed.run", "--nproc_per_node", str(ranks), "--monitor-interval", "0.02"]


def as_programs(folder: Path) -> str:
    """Write ``python`` and ``torchrun`` for a shell. -> the PATH with them in front."""
    folder.mkdir(parents=True, exist_ok=True)
    write_program(folder / "python", python())
    write_program(folder / "torchrun", [*python(), "-m", "torch.distributed.run"])
    return os.pathsep.join([str(folder), str(BIN), os.environ["PATH"]])


def write_program(path: Path, command: Sequence[str]) -> None:
    """A program that runs a command with the arguments that it is given."""
    path.write_text(f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n')
    path.chmod(0o755)


def pid_of(client: "subprocess.Popen[Any]", file: Path) -> int:
    """The process that really runs what ``client`` was started for with ``FORK_PID_FILE`` = ``file``, once it does."""
    if os.environ.get("NEW_INTERPRETERS"):
        return client.pid
    while not (file.exists() and file.read_text()):
        assert client.poll() is None, f"it ended with {client.returncode}"
        time.sleep(0.002)
    return int(file.read_text())


@cache
def _server() -> "ForkServer":
    server = ForkServer()
    atexit.register(server.stop)
    return server


class ForkServer:
    """A running server. ``socket``: where it listens.

    Args:
        root: the clone whose packages it imports.
        inside: the head of a command that runs the rest elsewhere, such as in a mount namespace.
    """

    def __init__(self, root: Path = ROOT, inside: Sequence[str] = ()):
        self._folder = Path(tempfile.mkdtemp(prefix="fork-server-"))
        self.socket = str(self._folder / "socket")
        write_program(self._folder / "python", self.python())
        env = {name: value for name, value in os.environ.items() if name not in LAUNCHER}
        env |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(map(str, dict.fromkeys((root, ROOT))))}
        command = [*inside, sys.executable, "-m", "tests.processes.server", self.socket]
        self._process = subprocess.Popen(command, cwd=root, env=env, stdin=subprocess.PIPE, start_new_session=True)
        try:
            self._wait()
        except BaseException:
            self.stop()
            raise

    def _wait(self) -> None:
        deadline = time.monotonic() + LONGEST_START
        while True:
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
                probe.connect(self.socket)
                return
            assert self._process.poll() is None, f"the fork server ended with {self._process.returncode}"
            assert time.monotonic() < deadline, f"the fork server is not there after {LONGEST_START} s"
            time.sleep(0.05)

    def python(self) -> list[str]:
        """The head of a command that this server runs."""
        return [sys.executable, "-I", "-S", str(ROOT / "tests/processes/client.py"), self.socket]

    def stop(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(30)
        self._process.kill()
        self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)
