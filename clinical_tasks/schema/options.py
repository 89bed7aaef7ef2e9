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
    elif len(spec.columns) == 1 and isinstance(values[0], list):
        items = values[0]
        if spec.text and not all(isinstance(item, dict) and spec.text in item for item in items):
            raise row_error(document, f"an option has no field '{spec.text}'", "correct options.text in the card")
        pairs = [(item.get(spec.key, ""), item[spec.text]) if spec.text else ("", item) for item in items]
    else:
        pairs = [("", value) for value in values]
    if any(holds_object(text) for _, text in pairs):
        raise row_error(document, "an option is an object, not a text", "name its field in options.text in the card")
    return [
        Choice(place, as_text(key), one_line(as_text(text)))
        for place, (key, text) in enumerate(pairs)
        if not is_absent(text)
    ]


def gold_index(spec: OptionsSpec, document: Document, found: Sequence[Choice]) -> int:
    """Which of the options the row's answer names. Raises `ReadError` where it names none of them, or more than one."""
    gold = one_line(as_text(document.fields["answer"]))
    if spec.gold == "text":
        named = [choice.text == gold for choice in found]
    elif spec.gold == "key":
        named = [choice.key == gold for choice in found]
    elif spec.gold == "letter":
        # An official mapping by letter may not be in order: its own keys decide.
        keyed = all(choice.key.isalpha() for choice in found)
        named = [
            (choice.key if keyed else string.ascii_uppercase[choice.place]).upper() == gold.upper() for choice in found
        ]
    else:
        number = _number(gold)
        # `counted_answers` has made an `index` count from 0.
        named = [number is not None and choice.place == number - (spec.gold == "index1") for choice in found]
    if named.count(True) != 1:
        hint = (
            "the corpus may count from the other end: index0 or index1"
            if spec.gold.startswith("index")
            else "correct columns.answer"
        )
        raise row_error(
            document, f"the answer names none of the {len(found)} options (or more than one) as '{spec.gold}'", hint
        )
    return named.index(True)


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
        fitting = [base for base in (0, 1) if number is not None and number - base in places]
        if not fitting:
            reason = "the answer is the number of no option, counted from 0 or from 1"
            raise row_error(
                document, reason, "correct columns.answer; answers that stand for none go into ignore_labels"
            )
        if len(fitting) == 1:
            only[fitting[0]].append(document.source)
    fix = "state options.gold: index0 or index1 in the card, as the release documents it"
    if only[0] and only[1]:
        reason = (
            f"answers count from 0 in {len(only[0])} rows (first {only[0][0]}) and from 1 in {len(only[1])} (first "
            f"{only[1][0]})"
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
        ignored = one_line(as_text(document.fields["answer"])) in card.ignore_labels
        fields = document.fields if ignored or number is None else {**document.fields, "answer": str(number - base)}
        yield replace(document, fields=fields, notes=(*document.notes, note))


def row_error(document: Document, reason: str, fix: str) -> ReadError:
    """The error of a row that has been read."""
    return ReadError(f"{document.source}: {reason}. Fix: {fix}")


def _number(text: str) -> int | None:
    """A whole number; `2.0` is how tables with empty cells come out of pandas."""
    match = re.fullmatch(r"([0-9]{1,9})(\.0*)?", text)
    return int(match[1]) if match else None
