"""Which tests reach which lines: a plugin of pytest that tells coverage.py whose turn it is, and the reader of what was
measured.

    coverage run --rcfile tools/mutation/coverage.ini -m pytest -p tools.mutation.reach -n 2 --dist loadfile

Processes that a test starts count for it: they find its name in the configuration that coverage.py hands down.
"""

import ast
import json
import os
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

import coverage
import pytest

FOLDER = Path(".cache/mutation/reach")  # of a checkout's root


def pytest_runtest_logstart(nodeid: str) -> None:
    """Lines that run from here on are this test's, in this process and in those that it starts."""
    current = coverage.Coverage.current()
    if current:
        current.switch_context(nodeid)
        current.config.context = nodeid
        os.environ["COVERAGE_PROCESS_CONFIG"] = current.config.serialize()
        current.config.context = None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Note how long a test took, with the fixtures that it was the first to need."""
    begin = time.monotonic()
    result = yield
    line = json.dumps({"file": item.nodeid.partition("::")[0], "seconds": time.monotonic() - begin})
    with open(item.config.rootpath / FOLDER / f"seconds.{os.getpid()}.jsonl", "a") as stream:
        stream.write(line + "\n")
    return result


def _files(contexts: Iterable[str]) -> set[str]:
    """The test files of contexts: TEST, or FIRST TEST OF THE PROCESS|TEST."""
    tests = (context.rpartition("|")[2] for context in contexts)
    return {test.partition("::")[0] for test in tests if "::" in test}


def in_a_function(tree: ast.Module, line: int) -> bool:
    """Whether a line is part of a function's body; its signature is not."""
    functions = (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))
    return any(node.body[0].lineno <= line <= (node.end_lineno or 0) for node in functions)


class Reach:
    """What a run with this plugin left in ``root / FOLDER``; a line's tests are named by their files."""

    def __init__(self, root: Path):
        self._root = root
        self.seconds: dict[str, float] = defaultdict(float)
        for file in sorted((root / FOLDER).glob("seconds.*.jsonl")):
            for line in file.read_text().splitlines():
                entry = json.loads(line)
                self.seconds[entry["file"]] += entry["seconds"]
        self._data = coverage.CoverageData(str(root / FOLDER / "coverage"))
        self._data.read()
        self._lines: dict[str, dict[int, set[str]]] = {}

    def files_of(self, path: str, line: int) -> list[str]:
        """The test files that run this line, those beside the mutated package first, then the quick ones.

        What is outside of functions runs once per process, whichever test imports it first: every test that runs a
        line of the file counts.

        Args:
            path: a source file, relative to the root.
            line: from 1.
        """
        if path not in self._lines:
            contexts = self._data.contexts_by_lineno(str(self._root / path))
            self._lines[path] = {number: _files(found) for number, found in contexts.items()}
        home = "tests/" + str(Path(path).parent).removesuffix(".py")
        found = self._lines[path].get(line, set())
        if not in_a_function(ast.parse((self._root / path).read_bytes()), line):
            found = set().union(*self._lines[path].values())
        return sorted(found, key=lambda file: (not file.startswith(home), self.seconds[file]))
