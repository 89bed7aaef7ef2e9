"""Which tests a mutant is given: those that reach its line, as a coverage run has told."""

import json
from pathlib import Path

import coverage
import pytest

from tools.mutation.operators import Mutant
from tools.mutation.reach import FOLDER, Reach

SOURCE = "LIMIT = 3\n\n\ndef one(x=1):\n    return x\n\n\ndef two():\n    return 2\n"


@pytest.fixture
def reach(tmp_path: Path) -> Reach:
    """Three test files: the first of the process, one beside the package, a slow one that a server ran lines for."""
    (tmp_path / FOLDER).mkdir(parents=True)
    source = tmp_path / "engine/core/module.py"
    source.parent.mkdir(parents=True)
    source.write_text(SOURCE)
    data = coverage.CoverageData(str(tmp_path / FOLDER / "coverage"))
    for context, lines in (
        ("", [1, 4, 8]),
        ("tests/a/test_a.py::test_first", [1, 4, 8]),
        ("tests/a/test_a.py::test_other", [5]),
        ("tests/engine/core/test_module.py::test_it[x::y]", [5]),
        ("tests/a/test_a.py::test_first|tests/b/test_slow.py::test_it", [5, 9]),
    ):
        data.set_context(context)
        data.add_lines({str(source): lines})
    data.write()
    seconds = {"tests/a/test_a.py": 2.0, "tests/b/test_slow.py": 50.0, "tests/engine/core/test_module.py": 3.0}
    lines = [json.dumps({"file": file, "seconds": time / 2}) + "\n" for file, time in seconds.items()]
    (tmp_path / FOLDER / "seconds.1.jsonl").write_text("".join(lines))
    (tmp_path / FOLDER / "seconds.2.jsonl").write_text("".join(lines))
    return Reach(tmp_path)


OWN, QUICK, SERVED = "tests/engine/core/test_module.py", "tests/a/test_a.py", "tests/b/test_slow.py"


@pytest.mark.parametrize(("line", "files"), [(5, [OWN, QUICK, SERVED]), (9, [SERVED]), (1, [OWN, QUICK, SERVED])])
def test_tests_beside_the_package_come_first_then_the_quick_ones(reach: Reach, line: int, files: list[str]) -> None:
    assert reach.files_of("engine/core/module.py", line) == files


def test_a_signature_and_a_constant_belong_to_every_test_of_the_file(reach: Reach) -> None:
    assert reach.files_of("engine/core/module.py", 4) == [OWN, QUICK, SERVED]


def test_a_budget_leaves_slow_files_out_but_never_all(reach: Reach) -> None:
    from tools.mutation.__main__ import chosen

    def at(line: int) -> Mutant:
        return Mutant("engine/core/module.py", line, start=0, end=0, new="", kind="constant")

    assert chosen(at(5), reach, budget=10.0) == ([OWN, QUICK], 5.0, 1)
    assert chosen(at(9), reach, budget=10.0) == ([SERVED], 50.0, 0)
    assert chosen(at(7), reach, budget=10.0) == ([OWN, QUICK], 5.0, 1)
