"""Rows: jsonl, json, csv and tsv files to one `Document` per row, its columns picked by the card.

Line ends inside a field become `\\n` and the ends of a field are stripped: rows carry no offsets, so nothing depends on them.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clinical_tasks.card import TaskCard
from clinical_tasks.documents import Document
from clinical_tasks.errors import ReadError, did_you_mean, read_error
from clinical_tasks.readers.files import read_text

# The default of 128 KiB is less than some discharge summaries; a C long may be 32 bits wide.
_FIELD_LIMIT = 2**31 - 1
# The key under which a row of a mapping finds its own key.
KEY_COLUMN = "$key"


@dataclass(frozen=True)
class _Row:
    """One record and where it is: the line for text tables, the ordinal for JSON, which knows no lines once parsed."""

    path: Path
    values: dict[str, Any]
    line: int | None = None
    record: int | None = None

    def error(self, reason: str, fix: str) -> ReadError:
        return read_error(self.path, reason, line=self.line, record=self.record, fix=fix)

    @property
    def place(self) -> str:
        return f"{self.path}:{self.line}" if self.line is not None else f"{self.path}: record {self.record}"


def read_jsonl(paths: list[Path], card: TaskCard, folder: Path) -> list[Document]:
    """One JSON object a line."""
    return [document for path in paths for document in _documents(path, _jsonl_rows(path), card)]


def read_json(paths: list[Path], card: TaskCard, folder: Path) -> list[Document]:
    """A list of objects, a mapping from id to object, or columns; `records` is the dotted path to it, `*` meaning every entry."""
    return [document for path in paths for document in _documents(path, _json_rows(path, card.reader_options), card)]


def read_csv(paths: list[Path], card: TaskCard, folder: Path) -> list[Document]:
    """Comma-separated, with a header line unless `header` lists the columns."""
    return [document for path in paths for document in _documents(path, _csv_rows(path, card.reader_options, ","), card)]


def read_tsv(paths: list[Path], card: TaskCard, folder: Path) -> list[Document]:
    """Tab-separated; quotes are ordinary characters unless `quoting: true`."""
    return [document for path in paths for document in _documents(path, _csv_rows(path, card.reader_options, "\t"), card)]


def documents_of_rows(rows: Iterable[dict[str, Any]], card: TaskCard) -> list[Document]:
    """The documents of records in memory, as the reader of a file that holds them would give them."""
    place = Path("rows")
    return list(_documents(place, (_Row(place, row, record=number) for number, row in enumerate(rows, start=1)), card))


def _jsonl_rows(path: Path) -> Iterator[_Row]:
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
        except json.JSONDecodeError as error:
            # `from None`: the original error keeps the whole line.
            raise read_error(path, f"not JSON at column {error.colno}", line=number, fix="each line is one JSON object") from None
        if not isinstance(values, dict):
            raise read_error(path, "not a JSON object", line=number, fix="each line is one JSON object")
        yield _Row(path, values, line=number)


def _json_rows(path: Path, options: dict[str, Any]) -> Iterator[_Row]:
    try:
        content = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        fix = "for one object a line use reader: jsonl"
        raise read_error(path, f"not JSON at column {error.colno}", line=error.lineno, fix=fix) from None
    place = str(options.get("records", ""))
    number = 0
    for node in _walk(path, content, place.split(".") if place else [], place):
        for key, values in _entries(path, node, options.get("orient", "")):
            number += 1
            if not isinstance(values, dict):
                raise read_error(path, "not an object", record=number, fix="check reader_options.records and orient")
            yield _Row(path, {KEY_COLUMN: key, **values}, record=number)


def _walk(path: Path, node: Any, steps: list[str], place: str) -> Iterator[Any]:
    """Every node that the dotted path leads to; `*` steps into all entries of a list or mapping."""
    if not steps:
        yield node
        return
    children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else []
    if steps[0] == "*":
        for child in children:
            yield from _walk(path, child, steps[1:], place)
    elif isinstance(node, dict) and steps[0] in node:
        yield from _walk(path, node[steps[0]], steps[1:], place)
    else:
        hint = did_you_mean(steps[0], node if isinstance(node, dict) else ())
        raise read_error(path, f"no key '{steps[0]}' on the way of records '{place}'{hint}", fix="correct reader_options.records")


def _entries(path: Path, node: Any, orient: str) -> Iterable[tuple[str, Any]]:
    """The records of a list, of a mapping by id, or of columns (`orient: columns`), each with its key."""
    if orient == "columns":
        if not isinstance(node, dict) or not all(isinstance(column, (list, dict)) for column in node.values()):
            raise read_error(path, "not a mapping of columns", fix="drop reader_options.orient or correct reader_options.records")
        columns = {name: dict(enumerate(column)) if isinstance(column, list) else column for name, column in node.items()}
        keys = list(dict.fromkeys(key for column in columns.values() for key in column))
        return [(str(key), {name: column.get(key) for name, column in columns.items()}) for key in keys]
    if isinstance(node, list):
        return [(str(index), values) for index, values in enumerate(node)]
    if isinstance(node, dict):
        return [(str(key), values) for key, values in node.items()]
    raise read_error(path, "neither a list nor a mapping of records", fix="set reader_options.records to the path of the records")


def _csv_rows(path: Path, options: dict[str, Any], delimiter: str) -> Iterator[_Row]:
    csv.field_size_limit(_FIELD_LIMIT)
    quoted = bool(options.get("quoting", delimiter == ","))
    reader = csv.reader(
        io.StringIO(read_text(path), newline="\n"),
        delimiter=str(options.get("delimiter", delimiter)),
        quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE,
        strict=quoted,
    )
    header = [str(name) for name in options.get("header", [])]
    begins = 1
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error:
            fix = "double the quotes inside a quoted field, close the last one, or set reader_options.quoting: false"
            raise read_error(path, "a quoted field is malformed or never ends", line=begins, fix=fix) from None
        line, begins = begins, reader.line_num + 1
        if not any(cell.strip() for cell in cells):
            continue
        if not header:
            header = [cell.strip() for cell in cells]
        elif len(cells) != len(header):
            reason = f"{len(cells)} fields where the header has {len(header)}"
            raise read_error(path, reason, line=line, fix="check the delimiter and the quotes around fields that hold it")
        else:
            yield _Row(path, dict(zip(header, cells, strict=True)), line=line)


def _documents(path: Path, rows: Iterator[_Row], card: TaskCard) -> Iterator[Document]:
    """Pick the card's columns. Without `columns.id` a row is named by its file and ordinal, which is stable in a release."""
    for ordinal, row in enumerate(rows, start=1):
        named = {name: _column(row, name, sources) for name, sources in card.columns.items()}
        if card.options is not None:
            # Kept apart from the named columns; a trailing option may be absent (4- and 5-option questions in one file).
            named["options"] = [_lookup(row.values, source) for source in card.options.columns]
        row_id = as_text(named.pop("id", "")) if "id" in card.columns else f"{path.stem}:{ordinal}"
        if not row_id:
            raise row.error("the id is empty", fix="correct columns.id, or drop it to number the rows")
        group = as_text(named.pop("document", "")) or row_id
        yield Document(doc_id=row_id, fields={"document": group, **named}, source=row.place)


def _column(row: _Row, name: str, sources: tuple[str, ...]) -> Any:
    """A column's value: one source as it is, several joined by newlines."""
    values = []
    for source in sources:
        value = _lookup(row.values, source)
        if value is _ABSENT:
            # Only a near miss is named: without a header line the first row's cells would be the known names.
            raise row.error(f"no column '{source}'{did_you_mean(source, row.values)}", fix=f"correct columns.{name} in the card")
        values.append(value)
    return values[0] if len(values) == 1 else as_text(values)


_ABSENT = object()


def _lookup(values: Any, source: str) -> Any:
    """A key as written, else the dotted path; through a list, the entries' values."""
    if isinstance(values, dict) and source in values:
        return values[source]
    first, dot, rest = source.partition(".")
    if isinstance(values, list):
        found = [_lookup(value, source) for value in values]
        return _ABSENT if any(value is _ABSENT for value in found) else found
    if dot and isinstance(values, dict) and first in values:
        return _lookup(values[first], rest)
    return _ABSENT


def as_text(value: Any) -> str:
    """A cell as text: lists joined by newlines, whole numbers without a point, nothing for null."""
    if value is None or value is _ABSENT or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, list):
        return "\n".join(text for text in map(as_text, value) if text)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).replace("\r\n", "\n").replace("\r", "\n").strip()


def is_absent(value: Any) -> bool:
    """Whether a row has no such column, or nothing in it."""
    return value is _ABSENT or as_text(value) == ""
