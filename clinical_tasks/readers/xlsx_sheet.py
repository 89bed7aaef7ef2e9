"""What the parser's calls build of a part of an .xlsx file: texts, and the rows of a sheet."""

from __future__ import annotations

import re
from typing import Any, Protocol

from clinical_tasks.schema import ReadError

_REFERENCE = re.compile(r"([A-Z]{1,3})([0-9]{1,7})")


class Book(Protocol):
    """The workbook that a sheet belongs to: it knows what a cell's stored text stands for."""

    def value(self, kind: str, style: str, text: str, row: int) -> Any: ...

    def damaged(self, reason: str, row: int | None = None) -> ReadError: ...


class Text:
    """Collects the text of a string item or an inline string: all its runs, without phonetic guides."""

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._phonetic = 0

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        self._phonetic += tag == "rPh"

    def end(self, tag: str, text: str) -> None:
        self._phonetic -= tag == "rPh"
        if tag == "t" and not self._phonetic:
            self._pieces.append(text)

    def take(self) -> str:
        """What was collected since the last time."""
        text = "".join(self._pieces)
        self._pieces.clear()
        return text


class Sheet:
    """Builds rows from the elements of a sheet; `done` holds the finished ones."""

    def __init__(self, book: Book) -> None:
        self.done: list[tuple[int, dict[int, Any]]] = []
        self._book = book
        self._row, self._column = 0, -1
        self._cells: dict[int, Any] = {}
        self._kind = self._style = self._stored = ""
        self._inline = Text()

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        self._inline.start(tag, attributes)
        if tag == "row":
            number = attributes.get("r", str(self._row + 1))
            if not number.isdecimal() or int(number) <= self._row:
                raise self._book.damaged("its rows are not in order", self._row)
            self._row, self._column, self._cells = int(number), -1, {}
        elif tag == "c":
            column = self._column + 1
            if "r" in attributes:
                match = _REFERENCE.fullmatch(attributes["r"])
                column = -1
                if match and int(match[2]) == self._row:
                    column = _column_number(match[1])
            if column <= self._column:
                raise self._book.damaged("its cells are not in order", self._row)
            self._column, self._stored = column, ""
            self._kind, self._style = attributes.get("t", "n"), attributes.get("s", "")
            self._inline.take()

    def end(self, tag: str, text: str) -> None:
        self._inline.end(tag, text)
        if tag == "v":
            self._stored = text
        elif tag == "c":
            stored = self._inline.take() if self._kind == "inlineStr" else self._stored
            self._cells[self._column] = self._book.value(self._kind, self._style, stored, self._row)
        elif tag == "row":
            self.done.append((self._row, self._cells))


def _column_number(letters: str) -> int:
    """A is 0, Z 25, AA 26."""
    number = 0
    for letter in letters:
        number = number * 26 + ord(letter) - 64
    return number - 1
