"""Docstrings of the project agree with its code, and one that does not is seen."""

from pathlib import Path

import pytest

from tools import docstrings

MODULE = '''
class Wrong(Exception): ...
class Worse(Wrong): ...
class Other(Exception): ...


def deepest():
    raise Worse("no")


def deep():
    return list(map(deepest, ()))


def right(first, *, second=None, **rest):
    """It calls what raises.

    Args:
        first: one. second: two: of them.
        rest: None: nothing.

    Raises:
        Wrong: always. Or so.
        ValueError, OSError: a library.
    """
    deep()


def wrong(first):
    """It calls nothing.

    Args:
        first: one. third: not there.
        forth: not there.

    Raises:
        Other: never.
        NoSuchError: never.
    """


class Made:
    """A class.

    Args:
        size: of it. colour: not there.

    Raises:
        Other: of its constructor.
    """

    def __init__(self, size):
        check(self)


def check(made):
    raise Other


def makes():
    """It makes one.

    Raises:
        Other: from the constructor.
        Wrong: never.
    """
    return Made(1)
'''


def test_the_docstrings_of_the_project_are_right() -> None:
    assert docstrings.problems() == []


def test_wrong_arguments_and_exceptions_are_seen(tmp_path: Path) -> None:
    (tmp_path / "engine").mkdir()
    (tmp_path / "engine" / "module.py").write_text(MODULE)
    found = [problem.partition(": ")[2] for problem in docstrings.problems(tmp_path)]
    assert sorted(found) == [
        "Made has no argument colour",
        "makes cannot raise Wrong",
        "wrong cannot raise Other",
        "wrong has no argument forth",
        "wrong has no argument third",
        "wrong: there is no exception NoSuchError",
    ]


def test_the_exit_code_says_whether_one_is_wrong(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(docstrings, "problems", lambda: ["a.py:1: f has no argument x"])
    assert docstrings.main() == 1
    assert capsys.readouterr().err == "error: a.py:1: f has no argument x\n"
    monkeypatch.setattr(docstrings, "problems", list)
    assert docstrings.main() == 0
