"""Multiple choice: the options of a row, and which of them its answer names.

Letters and numbers count the options as released: one that is empty keeps its place, and is not shown.
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from clinical_tasks.schema.card import OptionsSpec, TaskCard
from clinical_tasks.schema.cells import as_text, holds_object, is_absent
from clinical_tasks.schema.documents import Document, one_line
from clinical_tasks.schema.errors import ReadError, read_error
from strict_yaml import counted


class Choice(NamedTuple):
    """An option: its place among those released (from 0), its key where it has one, its text."""

    place: int
    key: str
    text: str


def choices(spec: OptionsSpec, document: Document) -> list[Choice]:
    """A row's options in its order, without empty ones. Raises `ReadError`."""
    values = document.fields["options"]
    pairs: list[tuple[Any, Any]]
    if len(spec.columns) == 1 and isinstance(values[0], dict):
        pairs = list(values[0].items())
    elif len(spec.columns) == 1 and isinstance(values[0], list) and spec.text:
        items = values[0]
        if not all(isinstance(item, dict) and spec.text in item for item in items):
            raise row_error(document, f"an option has no field '{spec.text}'", "correct options.text in the card")
        pairs = [(item.get(spec.key, ""), item[spec.text]) for item in items]
    elif len(spec.columns) == 1 and isinstance(values[0], list):
        pairs = [("", item) for item in values[0]]
    else:
        pairs = [("", value) for value in values]
    if any(holds_object(text) for _, text in pairs):
        raise row_error(document, "an option is an object, not a text", "name its field in options.text in the card")
    found = []
    for place, (key, text) in enumerate(pairs):
        if not is_absent(text):
            found.append(Choice(place, as_text(key), one_line(as_text(text))))
    return found


def gold_index(spec: OptionsSpec, document: Document, found: Sequence[Choice]) -> int:
    """Which of the options the row's answer names. Raises `ReadError` where it names none of them, or more than one."""
    gold = one_line(as_text(document.fields["answer"]))
    if spec.gold == "text":
        names = [choice.text for choice in found]
    elif spec.gold == "key":
        names = [choice.key for choice in found]
    elif spec.gold == "letter":
        names, gold = _letters(found), gold.upper()
    else:
        # `counted_answers` has made an `index` count from 0.
        first, number = 1 if spec.gold == "index1" else 0, _number(gold)
        names = [str(choice.place + first) for choice in found]
        gold = "no number" if number is None else str(number)
    if names.count(gold) != 1:
        hint = "correct columns.answer"
        if spec.gold.startswith("index"):
            hint = "the corpus may count from the other end: index0 or index1"
        raise row_error(
            document, f"the answer must name exactly one of the {len(found)} options, given as '{spec.gold}'", hint
        )
    return names.index(gold)


def _letters(found: Sequence[Choice]) -> list[str]:
    """The capital letter of each option. An official mapping by letter may not be in order: its own keys decide."""
    if all(choice.key.isalpha() for choice in found):
        return [choice.key.upper() for choice in found]
    return [string.ascii_uppercase[choice.place] for choice in found]


def counted_answers(path: Path, documents: list[Document], card: TaskCard) -> Iterator[Document]:
    """`options.gold: index`: find out over a whole file whether its answers count from 0 or from 1, and let them count
    from 0.

    A row decides it where only one of the two names an option: a 0 does, and so does the number of options. Rows that
    disagree and rows of which none decides are errors. The documents' notes say what was found.
    """
    assert card.options is not None
    numbers: list[int | None] = []
    only: dict[int, list[str]] = {0: [], 1: []}
    for document in documents:
        answer = one_line(as_text(document.fields["answer"]))
        numbers.append(_number(answer))
        if answer in card.ignore_labels:
            continue
        places = {choice.place for choice in choices(card.options, document)}
        number = numbers[-1]
        fitting = []
        if number is not None:
            fitting = [base for base in (0, 1) if number - base in places]
        if not fitting:
            reason = "the answer is not the number of an option, counted from 0 or from 1"
            raise row_error(
                document, reason, "correct columns.answer; put answers that mean no option into ignore_labels"
            )
        if len(fitting) == 1:
            only[fitting[0]].append(document.source)
    fix = "state options.gold: index0 or index1 in the card, as the release documents it"
    if only[0] and only[1]:
        reason = (
            f"answers count from 0 in {counted(len(only[0]), 'row')} (first {only[0][0]}) and from 1 in "
            f"{len(only[1])} (first {only[1][0]})"
        )
        raise read_error(path, reason, fix=f"the file mixes two conventions: take it as released, or {fix}")
    if documents and not only[0] and not only[1]:
        raise read_error(path, "no row shows whether answers count from 0 or from 1", fix=fix)
    base = 1 if only[1] else 0
    note = (
        f"{path.name}: answers count from {base}, as {len(only[base])} of {len(documents)} rows show (options.gold: "
        "index)"
    )
    for document, number in zip(documents, numbers, strict=True):
        fields = document.fields
        ignored = one_line(as_text(fields["answer"])) in card.ignore_labels
        if number is not None and not ignored:
            fields = {**fields, "answer": str(number - base)}
        yield replace(document, fields=fields, notes=(*document.notes, note))


def row_error(document: Document, reason: str, fix: str) -> ReadError:
    """The error of a row that has been read."""
    return ReadError(f"{document.source}: {reason}. Fix: {fix}")


def _number(text: str) -> int | None:
    """A whole number; `2.0` is how tables with empty cells come out of pandas."""
    match = re.fullmatch(r"([0-9]{1,9})(\.0*)?", text)
    return int(match[1]) if match else None
