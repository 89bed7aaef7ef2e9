"""Rows: jsonl, csv and tsv files, line by line, to one `Document` per row, its columns picked by the card.

Line ends inside a field become `\\n` and the ends of a field are stripped: rows carry no offsets, so nothing depends on
them. Lines end at `\\n` alone: U+2028, U+0085 and the like are characters of a field. A line, or a row of cells, with
nothing in it is no row.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from clinical_tasks.readers.files import open_text
from clinical_tasks.readers.json_text import NotJson, parse_json
from clinical_tasks.schema import (
    ABSENT,
    Document,
    ReadError,
    TaskCard,
    as_text,
    counted_answers,
    did_you_mean,
    holds_object,
    is_absent,
    lookup,
    read_error,
)
from strict_yaml import counted

# The default of 128 KiB is less than some discharge summaries; a C long may be 32 bits wide.
_FIELD_LIMIT = 2**31 - 1


@dataclass(frozen=True)
class Row:
    """One record and where it is: the line for text tables and sheets, the ordinal for JSON, which knows no lines
    once parsed.
    """

    path: Path
    values: dict[str, Any]
    line: int | None = None
    record: int | None = None

    def error(self, reason: str, fix: str) -> ReadError:
        return read_error(self.path, reason, line=self.line, record=self.record, fix=fix)

    @property
    def place(self) -> str:
        if self.line is not None:
            return f"{self.path}:{self.line}"
        return f"{self.path}: record {self.record}"


def read_jsonl(paths: list[Path], card: TaskCard, folder: Path) -> Iterator[Document]:
    """One JSON object a line."""
    for path in paths:
        yield from documents_of(path, _jsonl_rows(path), card)


def read_csv(paths: list[Path], card: TaskCard, folder: Path) -> Iterator[Document]:
    """Comma-separated, with a header line unless `header` lists the columns."""
    for path in paths:
        yield from documents_of(path, _table_rows(path, card.reader_options, ","), card)


def read_tsv(paths: list[Path], card: TaskCard, folder: Path) -> Iterator[Document]:
    """Tab-separated; quotes are ordinary characters unless `quoting: true`."""
    for path in paths:
        yield from documents_of(path, _table_rows(path, card.reader_options, "\t"), card)


def documents_of_rows(rows: Iterable[dict[str, Any]], card: TaskCard) -> list[Document]:
    """The documents of records in memory, as the reader of a file that holds them would give them."""
    place = Path("rows")
    numbered = [Row(place, row, record=number) for number, row in enumerate(rows, start=1)]
    return list(documents_of(place, numbered, card))


def _lines(path: Path) -> Iterator[str]:
    """The file's lines, each with the `\\n` that ends it."""
    return (line + "\n" for line in open_text(path))


def _jsonl_rows(path: Path) -> Iterator[Row]:
    for number, line in enumerate(_lines(path), start=1):
        if not line.strip():
            continue
        try:
            values = parse_json(line)
        except NotJson as error:
            raise read_error(path, error.reason, line=number, fix="each line is one JSON object") from None
        if not isinstance(values, dict):
            raise read_error(path, "not a JSON object", line=number, fix="each line is one JSON object")
        yield Row(path, values, line=number)


def _table_rows(path: Path, options: dict[str, Any], delimiter: str) -> Iterator[Row]:
    quoted = bool(options.get("quoting", delimiter == ","))
    delimiter = str(options.get("delimiter", delimiter))
    numbered = _quoted_cells(path, delimiter) if quoted else _plain_cells(path, delimiter)
    header = checked_header(path, [str(name) for name in options.get("header", [])])
    for line, cells in numbered:
        if not any(cell.strip() for cell in cells):
            continue
        if not header:
            header = checked_header(path, [cell.strip() for cell in cells], line)
        elif len(cells) != len(header):
            reason = f"{counted(len(cells), 'field')} where the header has {len(header)}"
            raise read_error(
                path, reason, line=line, fix="check the delimiter and the quotes around fields that hold it"
            )
        else:
            yield Row(path, dict(zip(header, cells, strict=True)), line=line)


def _plain_cells(path: Path, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Every character but the delimiter and `\\n` belongs to a field, quotes and carriage returns included."""
    for number, line in enumerate(_lines(path), start=1):
        yield number, line.removesuffix("\n").removesuffix("\r").split(delimiter)


def _quoted_cells(path: Path, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    csv.field_size_limit(_FIELD_LIMIT)
    reader = csv.reader(_lines(path), delimiter=delimiter, strict=True)
    begins = 1
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if str(error).startswith("new-line character"):
                reason, fix = (
                    "a carriage return outside quotes",
                    "let lines end in \\n or \\r\\n, and quote fields that hold line ends",
                )
            else:
                reason = "a quoted field is malformed or never ends"
                fix = (
                    "double the quotes inside a quoted field, close the last one, or set reader_options.quoting: false"
                )
            raise read_error(path, reason, line=begins, fix=fix) from None
        yield begins, cells
        begins = reader.line_num + 1


def checked_header(path: Path, names: list[str], line: int | None = None) -> list[str]:
    """The names of the columns; of two with the same name, one would be lost. Nameless ones cannot be asked for."""
    for number, name in enumerate(names):
        if name and name in names[:number]:
            reason = f"columns {names.index(name) + 1} and {number + 1} have the same name"
            raise read_error(
                path,
                reason,
                line=line,
                fix="rename one; where there is no header line, list the columns in reader_options.header",
            )
    return names


def documents_of(
    path: Path,
    rows: Iterable[Row],
    card: TaskCard,
    *,
    left_out: Mapping[str, int] | None = None,
    notes: Sequence[str] = (),
) -> Iterator[Document]:
    """One document a row of a file. `left_out` counts what the reader passed over in it, `notes` say what it found
    out about it.
    """
    made = _picked(path, rows, card)
    if left_out or notes:
        made = _told(made, dict(left_out or {}), tuple(notes))
    if card.options is not None and card.options.gold == "index":
        # Whether answers count from 0 or from 1 is decided over the whole file.
        made = counted_answers(path, list(made), card)
    yield from made


def _told(documents: Iterable[Document], left_out: dict[str, int], notes: tuple[str, ...]) -> Iterator[Document]:
    """The documents of a file with the notes about it; the first one also with what was passed over in it."""
    for document in documents:
        yield replace(document, notes=notes, left_out=left_out)
        left_out = {}


def _picked(path: Path, rows: Iterable[Row], card: TaskCard) -> Iterator[Document]:
    """Pick the card's columns. Without `columns.id` a row is named by its file and ordinal, which is stable in a
    release.
    """
    for ordinal, row in enumerate(rows, start=1):
        try:
            named = {name: _column(row, name, sources) for name, sources in card.columns.items()}
        except RecursionError:
            raise row.error("lists are nested too deeply", fix="take the file as released") from None
        answer = named.get("answer")
        if not isinstance(answer, list) or is_absent(answer):
            # As text, so that `ignore_labels` meets the same words whatever the file's types; "" stands for no answer.
            named["answer"] = as_text(answer)
        if card.options is not None:
            # Kept apart from the named columns; a trailing option may be absent (4- and 5-option questions in one
            # file).
            named["options"] = [lookup(row.values, source) for source in card.options.columns]
        row_id = f"{path.stem}:{ordinal}"
        if "id" in card.columns:
            row_id = as_text(named.pop("id", "")).replace("\n", "/")
        if not row_id:
            raise row.error("the id is empty", fix="correct columns.id, or drop it to number the rows")
        group = as_text(named.pop("document", "")) or row_id
        yield Document(doc_id=row_id, fields={"document": group, **named}, source=row.place)


def _column(row: Row, name: str, sources: tuple[str, ...]) -> Any:
    """A column's value: one source as it is, several joined by newlines."""
    values = []
    for source in sources:
        value = lookup(row.values, source)
        if value is ABSENT:
            # Only a near miss is named: without a header line the first row's cells would be the known names.
            raise row.error(
                f"no column '{source}'{did_you_mean(source, row.values)}", fix=f"correct columns.{name} in the card"
            )
        if holds_object(value):
            raise row.error(
                f"'{source}' is an object, not a text", fix=f"let columns.{name} name a field inside it: {source}.FIELD"
            )
        values.append(value)
    return values[0] if len(values) == 1 else as_text(values)
