"""What users read is plain English: one wording for each kind of problem, the same in all packages.

A wrong value: ``must be one of a, b; got 'x'``, ``must be > 0; got 0``, ``must be a number; got 'x'``. A key that is
given again: ``duplicate``. A key with a new name: ``was renamed to``.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("strict_yaml", "prompt_modules", "backbones", "clinical_tasks", "engine", "benchmarks", "tools")
INVENTED = ("clinical_tasks/pocket/",)  # sentences of made-up notes

FORBIDDEN = {
    r"\b(stands?|stood|given|used) twice\b": "duplicate …",
    r"\b(is|are) none of\b": "must be one of …",
    r"(?<!there )\b(is|are) no(?! longer)\b": "must be …, is not a …, has no …",
    r"\bis (called|named) \S+ now\b": "was renamed to …",
    r"\bis neither\b": "must be … or …",
    r"\bis not (above|at least|below|at most)\b": "must be > …, must be >= …",
    r"\bbut an? [\w.{}]+ is expected\b": "must be …; got …",
    r"\bexpected\b.*\bfound\b": "must be …; got …",
    r"\btake (it|one|the \w+|its \w+)( of .*)? away\b": "remove …",
    r"\bthe same command goes on\b": "run the same command again to continue",
    r"\bgo(es|ing) on (from|although)\b": "continues …",
    r"\bis there already\b": "already exists",
    r"\bof (its|your|their) own of\b": "its own …",
    r"\bmeans? nothing\b": "is meaningless",
    r"\b(set|made|written) by no\b": "not set by a …",
    r"\bnobody that\b": "no … / an unreadable …",
}


def sentences(source: str) -> Iterator[tuple[int, str]]:
    """Line and text of every string literal besides docstrings; a replacement field of an f-string is ``{}``."""
    tree = ast.parse(source)
    passed: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            passed.add(id(node.value))
        elif isinstance(node, ast.JoinedStr):
            passed.update(id(value) for value in node.values)
    for node in ast.walk(tree):
        if id(node) in passed:
            continue
        if isinstance(node, ast.JoinedStr):
            yield node.lineno, "".join(_text(value) for value in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value


def _text(part: ast.expr) -> str:
    return str(part.value) if isinstance(part, ast.Constant) else "{}"


def refused(source: str) -> Iterator[tuple[int, str]]:
    """Line and problem of every sentence with a forbidden wording."""
    for line, text in sentences(source):
        for pattern, better in FORBIDDEN.items():
            found = re.search(pattern, text)
            if found:
                yield line, f"{found[0]!r}; write {better!r}"


def test_messages_use_one_wording_for_each_kind_of_problem() -> None:
    files = [ROOT / "train.py"]
    for package in PACKAGES:
        files += sorted((ROOT / package).rglob("*.py"))
    names = {str(file.relative_to(ROOT)): file for file in files}
    assert len(names) > 250
    problems = []
    for name, file in names.items():
        if not name.startswith(INVENTED):
            problems += [f"{name}:{line}: {problem}" for line, problem in refused(file.read_text(encoding="utf-8"))]
    assert problems == []


@pytest.mark.parametrize(
    "source",
    [
        'raise UserError(f"{key!r} stands twice")',
        "raise UserError(f\"{value!r} is none of {', '.join(CHOICES)}\")",
        'text = f"--steps: {text!r} is no number above 0"',
        'text = "it is " f"called {new!r} now"',
        'text = f"{x} is neither true nor false"',
        'text = f"{0} is not above 1"',
        'text = ("expected a number, "\n    f"found {x}")',
        'text = f"{deepspeed}; take one of deepspeed and sharding away"',
        'text = "stopped as asked; the same command goes on from there"',
    ],
)
def test_the_scan_finds_what_it_must(source: str) -> None:
    assert list(refused(source))


@pytest.mark.parametrize(
    "source",
    [
        '"""A value that is none of the choices."""',
        'text = f"must be one of {choices}; got {value!r}"',
        'text = "there is no room"',
        "x = 1  # stands twice",
    ],
)
def test_docstrings_comments_and_plain_sentences_pass(source: str) -> None:
    assert not list(refused(source))
