"""One mutant, tried: a copy of the project in which a file is changed, and pytest in a fork that has the libraries
already.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from tools.mutation.operators import Mutant
from tools.process_tree import kill_tree

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
    """Tests of a copy of the project in a process of its own, from the start on. ``done`` says whether it has ended.

    Args:
        mutant: what is changed in the copy meanwhile; None: nothing.
        tests: arguments of pytest.
        limit: seconds after which the tests count as hanging.
    """

    def __init__(self, mutant: Mutant | None, copy: Path, tests: Sequence[str], limit: float):
        self.mutant, self._copy = mutant, copy
        self._before, self._ended = b"", False
        self._begin, self._limit = time.monotonic(), limit
        self._failure, self._temporary = (copy.parent / f"{copy.name}.{name}" for name in ("failed", "tmp"))
        self._failure.unlink(missing_ok=True)
        self._temporary.mkdir(exist_ok=True)
        if mutant:
            self._before = (copy / mutant.path).read_bytes()
            (copy / mutant.path).write_bytes(mutant.applied_to(self._before))
        sys.stdout.flush()
        self._pid = os.fork()
        if not self._pid:
            _test(copy, tests, failure=self._failure, temporary=self._temporary)

    def done(self) -> Outcome | None:
        """The outcome, once the tests have ended or their time is up; the file is then as it was."""
        seconds = time.monotonic() - self._begin
        pid, status = os.waitpid(self._pid, os.WNOHANG)
        if not pid and seconds < self._limit:
            return None
        self._ended = bool(pid)
        self.end()
        code = os.waitstatus_to_exitcode(status)
        if self._failure.exists():
            by = self._failure.read_text()
        elif not pid:
            by = "timeout"
        elif code in (pytest.ExitCode.USAGE_ERROR, pytest.ExitCode.NO_TESTS_COLLECTED):
            raise SystemExit(f"error: pytest finds none of the tests of {self.mutant}: {self._failure}.log")
        else:
            by = f"pytest ended with {code}" if code else ""
        return Outcome("caught" if by else "survived", by, seconds)

    def end(self) -> None:
        """Kill what still runs, and leave the copy as it was."""
        if not self._ended:  # the id of a process that was waited for may be another's by now
            kill_tree(self._pid)
        with contextlib.suppress(ProcessLookupError):  # what the tests left behind
            os.killpg(self._pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self._pid, 0)
        if self.mutant:
            (self._copy / self.mutant.path).write_bytes(self._before)
        shutil.rmtree(self._temporary, ignore_errors=True)


def _test(copy: Path, tests: Sequence[str], failure: Path, temporary: Path) -> None:
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
        os.environ |= {"PYTHONDONTWRITEBYTECODE": "1", "TMPDIR": str(temporary)}
        tempfile.tempdir = None
        code = pytest.main(["-x", *tests], plugins=[_FirstFailure(failure)])
    finally:
        os._exit(int(code))
