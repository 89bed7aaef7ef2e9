"""One mutant, tried: a copy of the project in which a file is changed, and pytest in a fork that has the libraries
already.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from tools.mutation.operators import Mutant

OWN = (
    "backbones",
    "benchmarks",
    "clinical_tasks",
    "engine",
    "prompt_modules",
    "strict_yaml",
    "tests",
    "tools",
    "train",
)


class Outcome(NamedTuple):
    """``verdict``: caught, survived, or unreached, where no test runs the line. ``by``: the first test that failed,
    or "timeout".
    """

    verdict: str
    by: str
    seconds: float


def copy_project(root: Path, target: Path) -> None:
    """The files that git knows, as they are now."""
    shutil.rmtree(target, ignore_errors=True)
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=root, capture_output=True, check=True).stdout.decode()
    for name in listed.split("\0"):
        if name and (root / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, target / name)
    for name in (".venv", ".cache"):  # found from the tests' own root
        (target / name).symlink_to(root / name)


class _FirstFailure:
    """A plugin of pytest that writes the first test that failed into a file."""

    def __init__(self, file: Path):
        self.file = file

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed and not self.file.exists():
            self.file.write_text(report.nodeid)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed and not self.file.exists():
            self.file.write_text(report.nodeid or "collection")


class Trial:
    """A mutant under test in a process of its own, from the start on. ``done`` says whether it has ended."""

    def __init__(self, mutant: Mutant, copy: Path, tests: Sequence[str], limit: float):
        self.mutant, self._file = mutant, copy / mutant.path
        self._before = self._file.read_bytes()
        self._begin, self._limit = time.monotonic(), limit
        self._failure = copy.parent / f"{copy.name}.failed"
        self._failure.unlink(missing_ok=True)
        self._file.write_bytes(mutant.applied_to(self._before))
        sys.stdout.flush()
        self._pid = os.fork()
        if not self._pid:
            _test(copy, tests, self._failure)

    def done(self) -> Outcome | None:
        """The outcome, once the tests have ended or their time is up; the file is then as it was."""
        seconds = time.monotonic() - self._begin
        pid, status = os.waitpid(self._pid, os.WNOHANG)
        by = ""
        if not pid:
            if seconds < self._limit:
                return None
            by, status = "timeout", 1
        with contextlib.suppress(ProcessLookupError):  # what the tests left behind goes too
            os.killpg(self._pid, signal.SIGKILL)
        if not pid:
            os.waitpid(self._pid, 0)
        self._file.write_bytes(self._before)
        if self._failure.exists():
            by = self._failure.read_text()
        elif status and not by:
            by = f"pytest ended with {os.waitstatus_to_exitcode(status)}"
        return Outcome("caught" if by else "survived", by, seconds)


def _test(copy: Path, tests: Sequence[str], failure: Path) -> None:
    """In the fork: run pytest and leave, never returning."""
    code = 1
    try:
        os.setsid()
        out = os.open(f"{failure}.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(out, 1)
        os.dup2(out, 2)
        os.chdir(copy)
        for name in list(sys.modules):
            if name.partition(".")[0] in OWN:
                del sys.modules[name]
        sys.path[:] = [str(copy), *(place for place in sys.path if place not in ("", str(copy)))]
        sys.dont_write_bytecode = True  # a file that changes twice in a second would keep the bytecode of the first
        os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
        code = pytest.main(["-x", *tests], plugins=[_FirstFailure(failure)])
    finally:
        os._exit(int(code))
