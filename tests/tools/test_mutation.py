"""The mutation check finds changes where they are, makes them, and knows which of them a test catches."""

import ast
import importlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from tools.mutation.operators import mutants_of
from tools.mutation.reach import in_a_function

SOURCE = '''"""Numbers - 1."""
LIMIT: int = -3  # a < b


def sign(x: int | None, *, least=0.5) -> str | None:
    """Of x < 0."""
    é = "é"; low = x < least  # noqa
    if low and not é:
        return f"{x + 1}"
    for y in range(3):
        if y not in (x,):
            continue
        total.sum += y
        items[y] = y**2
        log(
            y
        )
    return (
        x
        # + 1
        - 1
    )


class Queue(Base[1]):
    def drain(self):
        while self.items:
            if [item for item in self.items if item]:
                break
        y = low if high else None
'''


@pytest.fixture
def changed(tmp_path: Path) -> Callable[[str], list[tuple[int, str, str]]]:
    def find(source: str) -> list[tuple[int, str, str]]:
        (tmp_path / "source.py").write_text(source)
        found = []
        for mutant in mutants_of(tmp_path, "source.py"):
            before = source.encode()[mutant.start : mutant.end].decode()
            found.append((mutant.line, before, mutant.new))
        return found

    return find


def test_every_kind_of_change_is_found_where_it_stands(changed: Callable[[str], list[tuple[int, str, str]]]) -> None:
    found = changed(SOURCE)
    one_line = [entry for entry in found if "\n" not in entry[1]]
    assert sorted(one_line) == sorted(
        [
            (2, "-3", "(3)"),
            (2, "3", "4"),
            (5, "0.5", "2.0"),
            (7, "<", "<="),
            (8, "low and not é", "(not (low and not é))"),
            (8, "and", "or"),
            (8, "not é", "(é)"),
            (9, 'return f"{x + 1}"', "return None"),
            (10, "3", "4"),
            (11, "y not in (x,)", "(not (y not in (x,)))"),
            (11, "not in", "in"),
            (12, "continue", "break"),
            (13, "total.sum += y", "pass"),
            (14, "items[y] = y**2", "pass"),
            (14, "**", "*"),
            (14, "2", "3"),
            (21, "-", "+"),
            (21, "1", "2"),
            (27, "self.items", "(not (self.items))"),
            (28, "[item for item in self.items if item]", "(not ([item for item in self.items if item]))"),
            (28, "item", "(not (item))"),
            (29, "break", "continue"),
            (30, "high", "(not (high))"),
        ]
    )
    assert [entry[2] for entry in found if entry not in one_line] == ["pass", "return None"]


@pytest.mark.parametrize(
    "source", ['A: "int < str"\n', "@f(1)\ndef g(a: 1 = None): ...\n", "if TYPE_CHECKING:\n    A = 1\n"]
)
def test_annotations_decorators_and_what_type_checkers_read_stay(
    source: str, changed: Callable[[str], list[tuple[int, str, str]]]
) -> None:
    assert changed(source) == []


def test_each_package_gives_as_many_changes_the_same_for_a_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.core.protect", lambda: None)  # it changes the process that imports
    for name in ("datasets", "deepspeed", "peft", "transformers"):  # imported for the trials' sake alone, and slow
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    check = importlib.import_module("tools.mutation.__main__")
    monkeypatch.setattr(check, "ROOT", tmp_path)
    for package in ("a", "b"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "m.py").write_text("x = (1 +\n     2 * 3)\n")
    (tmp_path / "b/m.py").write_text("x = 1\n")
    found = check.drawn(["a", "b"], count=4, seed=0)
    assert [mutant.path for mutant in found] == ["a/m.py", "a/m.py", "b/m.py"]  # b has no other
    assert check.drawn(["a", "b"], count=4, seed=0) == found
    assert len({tuple(check.drawn(["a"], count=2, seed=seed)) for seed in range(9)}) > 1
    assert check.described(found[2]) == "b/m.py:1 constant: 1 -> 2"


TRY = """
import json, sys, time
from pathlib import Path
from tools.mutation.operators import Mutant
from tools.mutation.trial import Trial, copy_project

root, copy = Path(sys.argv[1]), Path(sys.argv[2])
copy_project(root, copy)
for line in sys.stdin:
    trial = Trial(Mutant(*json.loads(line)), copy, tests=["-p", "no:cacheprovider", "tests"], limit=60.0)
    while not (outcome := trial.done()):
        time.sleep(0.01)
    print(outcome.verdict, outcome.by)
assert (copy / "half.py").read_bytes() == (root / "half.py").read_bytes()
"""


def test_a_mutant_is_caught_by_the_first_test_that_fails_and_the_file_comes_back(tmp_path: Path, project: Path) -> None:
    root = tmp_path / "root"
    (root / "tests").mkdir(parents=True)
    (root / "half.py").write_text("def half(x):\n    return x / 2\n\n\ndef unused(x):\n    return x + 1\n")
    (root / "tests/test_half.py").write_text(
        "import sys\nsys.path.insert(0, '.')\nfrom half import half\n\ndef test_half():\n    assert half(4) == 2\n"
    )
    (root / "pyproject.toml").write_text("")
    subprocess.run(["git", "init", "-q"], cwd=root, check=True)
    subprocess.run(["git", "add", "-A"], cwd=root, check=True)
    mutants = mutants_of(root, "half.py")
    assert [mutant.line for mutant in mutants] == [2, 2, 2, 6, 6, 6]
    done = subprocess.run(
        [sys.executable, "-c", TRY, str(root), str(tmp_path / "copy")],
        cwd=project,
        input="".join(json.dumps(list(mutant)) + "\n" for mutant in mutants),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [*["caught tests/test_half.py::test_half"] * 3, *["survived "] * 3]


@pytest.mark.parametrize(("line", "inside"), [(2, False), (5, False), (7, True), (21, True)])
def test_what_runs_at_import_is_known(line: int, inside: bool) -> None:
    assert in_a_function(ast.parse(SOURCE), line) == inside
