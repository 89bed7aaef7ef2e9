"""What the tests reach is counted by package, and a function that no test calls is named."""

import json
import subprocess
import sys
from pathlib import Path

from tools import reached

FILES = {
    "engine/core/a.py": {
        "summary": {"covered_lines": 3, "num_statements": 4, "covered_branches": 1, "num_branches": 2},
        "functions": {
            "": {"summary": {"covered_lines": 2, "num_statements": 2}},
            "called": {"summary": {"covered_lines": 1, "num_statements": 1}},
            "Class.never": {"summary": {"covered_lines": 0, "num_statements": 1}},
            "empty": {"summary": {"covered_lines": 0, "num_statements": 0}},
        },
    },
    "train.py": {
        "summary": {"covered_lines": 6, "num_statements": 6, "covered_branches": 0, "num_branches": 0},
        "functions": {"main": {"summary": {"covered_lines": 6, "num_statements": 6}}},
    },
}


def test_lines_and_branches_are_summed_by_package() -> None:
    head, *rows = reached.table(FILES)
    assert head.split() == ["lines", "branches"]
    assert [row.split() for row in rows] == [
        ["engine/core", "4", "75.0", "%", "2", "50.0", "%"],
        ["train.py", "6", "100.0", "%", "0", "-"],
        ["all", "10", "90.0", "%", "2", "50.0", "%"],
    ]


def test_a_function_that_no_test_calls_must_be_listed_and_a_listed_one_must_not_be_called() -> None:
    found = reached.unreached(FILES)
    assert found == ["engine/core/a.py::Class.never"]
    assert reached.problems(found, {"engine/core/a.py::Class.*": "GPU"}) == []
    assert [line.partition(": ")[0] for line in reached.problems(found, {"train.py::*": "GPU"})] == [
        "engine/core/a.py::Class.never",
        "unreached.toml",
    ]


def test_what_coverage_measures_is_read(tmp_path: Path, project: Path) -> None:
    (tmp_path / "m.py").write_text("def a():\n    return 1\n\n\ndef b():\n    return 2\n\n\na()\n")
    for words in (["run", "--branch", "m.py"], ["json", "-q", "-o", "report.json"]):
        subprocess.run([sys.executable, "-m", "coverage", *words, "--rcfile="], cwd=tmp_path, check=True)
    files = json.loads((tmp_path / "report.json").read_text())["files"]
    assert reached.unreached(files) == ["m.py::b"]
