"""What readers return and what the rest of the package works on: documents, mentions, relations, examples.

Offsets count characters of `Document.text`, start inclusive, end exclusive.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Mention:
    """One annotated span.

    `start`/`end` cover the whole mention; `fragments` are its parts where it is discontinuous. `ids` are concept
    identifiers (empty where the corpus has none). `parts` are the single texts of a composite mention, one for each id,
    or empty.
    """

    key: str
    type: str
    start: int
    end: int
    fragments: tuple[tuple[int, int], ...] = ()
    ids: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Relation:
    """A typed, directed pair. `head` and `tail` are mention keys, or concept identifiers in a document-level corpus."""

    type: str
    head: str
    tail: str


@dataclass(frozen=True)
class Document:
    """One note, abstract or table row, as read. `source` says where (`FILE:LINE`), for messages.

    Row readers fill `fields`; annotation readers fill `text`, `mentions` and `relations`. `mismatches` lists the places
    (`FILE:LINE`) where an annotation quotes a text that its offsets do not hold. `left_out` counts, under a plain name,
    what the files hold and the document does not: with mentions and relations it makes up every annotation that was
    read. A row reader counts on a file's first row. `notes` say what it found out about a file, the same for all its
    rows, and hold no content.
    """

    doc_id: str
    text: str = ""
    mentions: tuple[Mention, ...] = ()
    relations: tuple[Relation, ...] = ()
    fields: dict[str, Any] = field(default_factory=dict)
    source: str = ""
    mismatches: tuple[str, ...] = ()
    left_out: dict[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Example:
    """A text pair with everything that scoring needs.

    `options` holds the answers to compare by likelihood, and is empty where the answer is generated. `gold` is
    JSON-able: `label`, `options` (and `choices`) for a choice; `references` for free text; `spans` or `mentions` and
        `relations` with
    `offset` (of this piece in the document) and `text_range` (where the piece's text lies in `input_text`) for
    annotations.
    """

    task: str
    example_id: str
    document: str
    piece: int
    input_text: str
    answer_text: str
    options: tuple[str, ...]
    gold: dict[str, Any]


def reader_notes(documents: Iterable[Document]) -> list[str]:
    """What the readers of these documents noted, each note once."""
    notes: dict[str, None] = {}
    for document in documents:
        notes |= dict.fromkeys(document.notes)
    return list(notes)


def one_line(text: str) -> str:
    """Whitespace normalised to single spaces: how a mention is written in an answer and compared when it comes back."""
    return " ".join(text.split())


def mention_order(mention: Mention) -> tuple[int, int, str, str]:
    """Text order: by start, the longer first, so that an outer mention precedes the one nested in it."""
    return mention.start, -mention.end, mention.type, mention.key
