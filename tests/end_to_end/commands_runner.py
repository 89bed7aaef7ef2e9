"""Runs train.py as a user does, but for the price of its imports (see tests/processes)."""

import os
import subprocess
import tempfile
from pathlib import Path

from tests.processes.fork_server import BIN, pid_of, python, torchrun
from tools.process_tree import kill_tree, wait_until_gone

__all__ = ["BIN", "ROOT", "command", "run", "run_and_kill"]

ROOT = Path(__file__).resolve().parents[2]


def command(*arguments: str, ranks: int) -> list[str]:
    launcher = [*torchrun(ranks), "--"] if ranks > 1 else python()
    return [*launcher, "train.py", *arguments]


def run(*arguments: str, ranks: int = 2, home: Path | None = None, expect: int = 0) -> str:
    """stdout and stderr together; asserts the exit code."""
    env = os.environ | ({"HOME": str(home)} if home else {})
    done = subprocess.run(
        command(*arguments, ranks=ranks), cwd=ROOT, env=env, text=True, capture_output=True, timeout=400
    )
    output = done.stdout + done.stderr
    assert done.returncode == expect, output[-4000:]
    return output


def run_and_kill(*arguments: str, when: str, ranks: int = 2) -> str:
    """Start, and SIGKILL launcher and workers together as soon as a line contains ``when``."""
    with tempfile.TemporaryDirectory() as folder:
        pid_file = Path(folder) / "pid"
        process = subprocess.Popen(
            command(*arguments, ranks=ranks),
            cwd=ROOT,
            env=os.environ | {"FORK_PID_FILE": str(pid_file)},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        seen = []
        assert process.stdout is not None
        for line in process.stdout:
            seen.append(line)
            if when in line:
                wait_until_gone(kill_tree(pid_of(process, pid_file)))
                break
        process.wait(60)
    assert any(when in line for line in seen), "".join(seen)[-4000:]
    return "".join(seen)
