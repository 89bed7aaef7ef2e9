"""The two errors a user of this package meets. Both are one line and neither ever holds a word of a note."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from pathlib import Path

from strict_yaml import counted


class CardError(ValueError):
    """A task card is wrong; `problems` lists everything that is, not only the first."""

    def __init__(self, path: Path | str, problems: Sequence[str]) -> None:
        self.path = str(path)
        self.problems = list(problems)
        super().__init__(f"{self.path}: {counted(len(self.problems), 'problem')}: " + "; ".join(self.problems))

    def __reduce__(self) -> tuple[type[CardError], tuple[str, list[str]]]:
        # An exception that crosses a process border is rebuilt from its arguments, not from its message.
        return type(self), (self.path, self.problems)


class ReadError(ValueError):
    """A released file cannot be read as its card says. Names file, line, reason and fix; never content."""


def read_error(
    path: Path | str, reason: str, *, line: int | None = None, record: int | None = None, fix: str = ""
) -> ReadError:
    """Build a `ReadError` in the one form: `FILE:LINE: reason. Fix: what to do`. Lines and records count from 1."""
    where = str(path)
    if line is not None:
        where += f":{line}"
    if record is not None:
        where += f": record {record}"
    return ReadError(f"{where}: {reason}" + (f". Fix: {fix}" if fix else ""))


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """` (did you mean 'x'?)` for the closest known word, or an empty string."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean '{close[0]}'?)" if close else ""
