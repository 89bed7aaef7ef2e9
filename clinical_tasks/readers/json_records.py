"""Records inside one JSON document: lists, mappings by id, columns, nested releases (HEAD-QA) and SQuAD's nesting
(emrQA).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from clinical_tasks.readers.files import read_text
from clinical_tasks.readers.json_text import NotJson, parse_json
from clinical_tasks.readers.tables import Row, documents_of
from clinical_tasks.schema import KEY_COLUMN, PARENT_COLUMN, Document, TaskCard, did_you_mean, read_error


def read_json(paths: list[Path], card: TaskCard, folder: Path) -> Iterator[Document]:
    """A list of objects, a mapping from id to object, or columns; `records` is the dotted path to it, `*` meaning every
    entry.

    A record finds its key in a mapping (or its number in a list) as `$key`, and the object around it as `$parent`,
    which has both too.
    """
    for path in paths:
        yield from documents_of(path, _json_rows(path, card.reader_options), card)


def read_squad(paths: list[Path], card: TaskCard, folder: Path) -> Iterator[Document]:
    """Parts with paragraphs with questions: a row a question, with the paragraph's `context` and the part's `title`
    beside its own fields.

    emrQA releases a list of paraphrases as one question: the first is read, or with `paraphrases: all` each, as a row
    of its own. `titles` reads only these parts; what lies in others is counted.
    """
    for path in paths:
        rows, left_out = _squad_rows(path, card.reader_options)
        yield from documents_of(path, rows, card, left_out=left_out)


def _load(path: Path) -> Any:
    try:
        return parse_json(read_text(path))
    except NotJson as error:
        raise read_error(path, error.reason, line=error.line, fix="for one object a line use reader: jsonl") from None


def _json_rows(path: Path, options: dict[str, Any]) -> Iterator[Row]:
    place = str(options.get("records", ""))
    steps = place.split(".") if place else []
    number = 0
    for node, parent in _walk(path, node=_load(path), steps=steps, place=place, parent={}):
        around = {PARENT_COLUMN: parent} if parent else {}
        for key, values in _entries(path, node, options.get("orient", "")):
            number += 1
            if not isinstance(values, dict):
                raise read_error(path, "not an object", record=number, fix="check reader_options.records and orient")
            yield Row(path, {KEY_COLUMN: key, **around, **values}, record=number)


def _walk(
    path: Path, node: Any, steps: list[str], place: str, parent: dict[str, Any], key: str = ""
) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Every node that the dotted path leads to, with the object around it; `*` steps into all entries of a list or
    mapping.
    """
    if not steps:
        yield node, parent
    elif steps[0] == "*":
        if not isinstance(node, (list, dict)):
            reason = f"'*' of records '{place}' must stand for a list or a mapping"
            raise read_error(path, reason, fix="correct reader_options.records")
        children = node.items() if isinstance(node, dict) else enumerate(node)
        for name, child in children:
            yield from _walk(path, node=child, steps=steps[1:], place=place, parent=parent, key=str(name))
    elif isinstance(node, dict) and steps[0] in node:
        around: dict[str, Any] = {KEY_COLUMN: key}
        if parent:
            around[PARENT_COLUMN] = parent
        yield from _walk(path, node=node[steps[0]], steps=steps[1:], place=place, parent=around | node)
    else:
        hint = did_you_mean(steps[0], node if isinstance(node, dict) else ())
        raise read_error(
            path, f"no key '{steps[0]}' in the path of records '{place}'{hint}", fix="correct reader_options.records"
        )


def _entries(path: Path, node: Any, orient: str) -> Iterable[tuple[str, Any]]:
    """The records of a list, of a mapping by id, or of columns (`orient: columns`), each with its key."""
    if orient == "columns":
        return _column_entries(path, node)
    if isinstance(node, list) and orient in ("", "list"):
        return [(str(index), values) for index, values in enumerate(node)]
    if isinstance(node, dict) and orient in ("", "by_id"):
        return [(str(key), values) for key, values in node.items()]
    expected = {"list": "not a list of records", "by_id": "not a mapping of records"}.get(
        orient, "neither a list nor a mapping of records"
    )
    raise read_error(
        path, expected, fix="set reader_options.records to the path of the records, and orient to how they are stored"
    )


def _column_entries(path: Path, node: Any) -> Iterable[tuple[str, Any]]:
    columns: dict[str, dict[str, Any]] = {}
    for name, column in node.items() if isinstance(node, dict) else ():
        if isinstance(column, dict):
            columns[name] = column
        elif isinstance(column, list):
            columns[name] = {str(number): value for number, value in enumerate(column)}
    if not columns or len(columns) < len(node):
        raise read_error(
            path, "not a mapping of columns", fix="drop reader_options.orient or correct reader_options.records"
        )
    keys = list(next(iter(columns.values())))
    for number, column in enumerate(columns.values(), start=1):
        if column.keys() != set(keys):
            raise read_error(path, f"columns 1 and {number} do not have the same rows", fix="take the file as released")
    records = []
    for key in keys:
        records.append((key, {name: column[key] for name, column in columns.items()}))
    return records


def _squad_rows(path: Path, options: dict[str, Any]) -> tuple[list[Row], dict[str, int]]:
    titles = [str(title) for title in options.get("titles", [])]
    every = options.get("paraphrases", "first") == "all"
    rows: list[Row] = []
    number = left_out = 0
    known: dict[str, None] = {}
    for part in _parts(path, _load(path)):
        title = str(part.get("title", ""))
        known[title] = None
        for paragraph in _objects(path, part, "paragraphs"):
            # One list for all questions of a paragraph, as in the file: contexts are long.
            around = {"title": title, "context": paragraph.get("context"), PARENT_COLUMN: paragraph}
            for question in _objects(path, paragraph, "qas"):
                number += 1
                if titles and title not in titles:
                    left_out += 1
                    continue
                asked = question.get("question")
                if asked == []:
                    raise read_error(path, "a question without words", record=number, fix="take the file as released")
                paraphrases = asked if isinstance(asked, list) else [asked]
                for words in paraphrases if every else paraphrases[:1]:
                    rows.append(Row(path, {**around, **question, "question": words}, record=number))
    for title in titles:
        if title not in known:
            raise read_error(
                path,
                f"no part has the title '{title}'{did_you_mean(title, known)}",
                fix="correct reader_options.titles",
            )
    if not left_out:
        return rows, {}
    return rows, {"questions under titles that the card does not name": left_out}


def _parts(path: Path, content: Any) -> Iterable[dict[str, Any]]:
    """The parts below `data`, in a bare list, or the one part that the file is: emrQA writes all three."""
    if not isinstance(content, dict):
        return _objects(path, {"data": content}, "data")
    if "paragraphs" in content:
        return [content]
    return _objects(path, content, "data")


def _objects(path: Path, holder: dict[str, Any], name: str) -> list[dict[str, Any]]:
    found = holder.get(name)
    if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
        hint = did_you_mean(name, holder) if name not in holder else ""
        raise read_error(
            path,
            f"no list of objects under '{name}'{hint}",
            fix="SQuAD nests data, paragraphs and qas; otherwise use reader: json",
        )
    return found
