"""Runs train.py as a user does."""

import os
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent


def command(*arguments: str, ranks: int) -> list[str]:
    launcher = (
        [str(BIN / "torchrun"), "--nproc_per_node", str(ranks), "--", "train.py"]
        if ranks > 1
        else [sys.executable, "train.py"]
    )
    return [*launcher, *arguments]


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
    process = subprocess.Popen(
        command(*arguments, ranks=ranks),
        cwd=ROOT,
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
            children = subprocess.run(
                ["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True, text=True
            ).stdout.split()
            for pid in [*children, str(process.pid)]:
                os.kill(int(pid), signal.SIGKILL)
            break
    process.wait(60)
    assert any(when in line for line in seen), "".join(seen)[-4000:]
    return "".join(seen)
