"""Python processes without the price of their imports (torch, DeepSpeed and transformers: 5 to 7 s a process).

``python()`` stands in for ``sys.executable`` at the head of a command. One server per pytest process forks on request;
it starts when it is first needed. NEW_INTERPRETERS=1 gives every command a new interpreter, as a user's has.
"""

import atexit
import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
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
    return [sys.executable, "-I", "-S", str(ROOT / "tests/processes/client.py"), _socket()]


def torchrun(ranks: int) -> list[str]:
    """The head of a command with several ranks; ``--`` and the script follow."""
    return [*python(), "-m", "torch.distributed.run", "--nproc_per_node", str(ranks), "--monitor-interval", "0.02"]


def as_programs(folder: Path) -> str:
    """Write ``python`` and ``torchrun`` for a shell. -> the PATH with them in front."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, words in (("python", []), ("torchrun", ["-m", "torch.distributed.run"])):
        path = folder / name
        command = " ".join(f"'{word}'" for word in [*python(), *words])
        path.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
        path.chmod(0o755)
    return os.pathsep.join([str(folder), str(BIN), os.environ["PATH"]])


def pid_of(client: "subprocess.Popen[Any]", file: Path) -> int:
    """The process that really runs what ``client`` was started for with ``FORK_PID_FILE`` = ``file``, once it does."""
    if os.environ.get("NEW_INTERPRETERS"):
        return client.pid
    while not (file.exists() and file.read_text()):
        assert client.poll() is None, f"it ended with {client.returncode}"
        time.sleep(0.002)
    return int(file.read_text())


@cache
def _socket() -> str:
    """Start the server. -> where it listens."""
    folder = tempfile.mkdtemp(prefix="fork-server-")
    path = f"{folder}/socket"
    env = {name: value for name, value in os.environ.items() if name not in LAUNCHER}
    env |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tests.processes.server", path]
    server = subprocess.Popen(command, cwd=ROOT, env=env, stdin=subprocess.PIPE)

    def stop() -> None:
        assert server.stdin is not None
        server.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(30)
        server.kill()
        shutil.rmtree(folder, ignore_errors=True)

    atexit.register(stop)
    deadline = time.monotonic() + LONGEST_START
    while True:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
            probe.connect(path)
            probe.send(b"")
            return path
        assert server.poll() is None, f"the fork server ended with {server.returncode}"
        assert time.monotonic() < deadline, f"the fork server is not there after {LONGEST_START} s"
        time.sleep(0.05)
