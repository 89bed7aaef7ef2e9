"""The pocket corpus: which notes belong to which split, and the data root."""

from __future__ import annotations

import shutil
import zlib
from collections.abc import Iterator, Mapping
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

from clinical_tasks.corpus import holder
from clinical_tasks.pocket.annotated import CORPORA, annotate
from clinical_tasks.pocket.catalogue import SOURCE_CARDS, TARGET_CARDS, card_text
from clinical_tasks.pocket.files import write_annotated, write_rows
from clinical_tasks.pocket.notes import Draft, generator
from clinical_tasks.pocket.questions import QUESTIONS
from clinical_tasks.pocket.summaries import SUMMARIES
from clinical_tasks.readers import documents_of_rows
from clinical_tasks.schema import Document, Example, TaskCard, one_line
from clinical_tasks.task_card import load_card
from clinical_tasks.text_pairs import make_example

CARDS = Path(__file__).parent / "cards"
SOURCES = tuple(SOURCE_CARDS)
TARGETS = tuple(TARGET_CARDS)
TASKS = SOURCES + TARGETS
SIZES = {"train": 400, "validation": 40, "test": 60}
TABLES = {**QUESTIONS, **SUMMARIES}

# A `Note` for an annotated corpus, a `Row` for a table.
Drawn = Any

PRETRAINING = "pretraining"
# Each use draws from indices of its own ...
_FIRST_INDEX = {use: number << 32 for number, use in enumerate((*SIZES, PRETRAINING))}
FIRST_PRETRAINING_INDEX = _FIRST_INDEX[PRETRAINING]
# ... and keeps only the notes whose text falls to it, so that the same text, drawn twice by chance, never lies in two
# splits.
_SHARES = ("validation", "test", "test") + ("train",) * 7

_FIRST_ID = 20_000_001


def share_of(text: str) -> str:
    """The split that a note may lie in, whatever the seed: its text decides, whitespace aside. Pre-training uses
    `train`.
    """
    return _SHARES[zlib.crc32(one_line(text).encode()) % len(_SHARES)]


@cache
def pocket_card(name: str) -> TaskCard:
    """The committed card of a task."""
    return load_card(CARDS / f"{name}.yaml")


def write_pocket_corpus(output: Path | str, seed: int = 0, sizes: Mapping[str, int] | None = None) -> dict[str, int]:
    """Write the data root of all 31 tasks, and their cards with these sizes into `cards/`; returns documents per task.

    The same seed and sizes write the same bytes. `sizes` has train, validation and test, each at least 1.
    """
    root, sizes = Path(output), {**SIZES, **(sizes or {})}
    if set(sizes) != set(SIZES) or min(sizes.values()) < 1:
        raise ValueError(f"sizes are {sizes}; give at least 1 for each of {', '.join(SIZES)}")
    (root / "cards").mkdir(parents=True, exist_ok=True)
    for name in TASKS:
        (root / "cards" / f"{name}.yaml").write_text(card_text(name, sizes), encoding="utf-8")
    for folder in (*CORPORA, *TABLES):
        # What an earlier corpus of other sizes left there would be read as part of this one.
        shutil.rmtree(root / folder, ignore_errors=True)
    for folder, corpus in CORPORA.items():
        numbers = count(_FIRST_ID)
        for split, size in sizes.items():
            documents = [annotate(corpus, note, str(next(numbers))) for _, note in _draws(folder, seed, split, size)]
            write_annotated(root / folder, corpus, split, documents)
    for name, table in TABLES.items():
        card = pocket_card(name)
        keys = _keys(card)
        parts: dict[str, list[dict[str, Any]]] = {}
        for split, size in sizes.items():
            parts[split] = [table.record(next(keys[split]), row) for _, row in _draws(name, seed, split, size)]
        write_rows(card, root / name, parts)
    return dict.fromkeys(TASKS, sum(sizes.values()))


def draw_examples(name: str, seed: int, split: str, size: int) -> list[Example]:
    """The examples of a task's split without any files: equal to what its reader makes of the written ones, but for
    ids.
    """
    return [example_of(name, index, drawn) for index, drawn in _draws(pocket_card(name).folder, seed, split, size)]


def _draws(folder: str, seed: int, split: str, size: int) -> Iterator[tuple[int, Drawn]]:
    """The first notes of the split's range that fall to it and are new, each with its index."""
    seen: set[str] = set()
    for index in count(_FIRST_INDEX[split]):
        if len(seen) == size:
            return
        text, drawn = draw(folder, seed, index)
        if share_of(text) == split and text not in seen:
            seen.add(text)
            yield index, drawn


def draw(folder: str, seed: int, index: int) -> tuple[str, Drawn]:
    """A note's text, and the note with its facts or the row over it. Depends on its arguments alone."""
    draft = Draft(generator(seed, index, folder))
    if folder in CORPORA:
        CORPORA[folder].compose(draft)
        note = draft.note()
        return note.text, note
    row = TABLES[folder].compose(draft)
    return row[0], row


def example_of(name: str, index: int, drawn: Drawn) -> Example:
    """What the reader would make of it, had it been written."""
    card = pocket_card(name)
    if name in TABLES:
        return make_example(card, documents_of_rows([TABLES[name].record(str(index), drawn)], card)[0])
    return make_example(card, annotate(CORPORA[card.folder], drawn, str(index)))


def _keys(card: TaskCard) -> dict[str, Iterator[str]]:
    """Ids for each split's rows; where one split is held out of another by id, ids that the hash sends there."""
    numbers = count(_FIRST_ID)

    def keys(split: str) -> Iterator[str]:
        parent = card.splits[split].hold_out_from or split
        return (str(number) for number in numbers if holder(card, parent, Document(str(number))) == split)

    return {split: keys(split) for split in SIZES}
