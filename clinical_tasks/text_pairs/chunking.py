"""Long notes to pieces that fit a token budget: cut at section, sentence or line borders, never through a mention."""

from __future__ import annotations

import dataclasses
import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable

from clinical_tasks.schema import Document, Example, Mention, Relation, TaskCard
from clinical_tasks.text_pairs.serialise import document_of, make_example

Fits = Callable[[str, str], bool]

# Best border first. A line break is last: many notes are wrapped in the middle of a sentence.
_BORDERS = (
    re.compile(r"\n[ \t\r]*\n\s*|\n(?=[A-Z][A-Za-z /&-]{2,40}:)"),
    re.compile(r"(?<=[.!?])[\"')\]]*\s+(?=[\"'(\[]*[A-Z0-9])"),
    re.compile(r"\n\s*"),
)


def split_long(example: Example, card: TaskCard, fits: Fits) -> list[Example]:
    """Pieces of a NER or RE example, in order, such that `fits(input_text, answer_text)` holds for each.

    Other types, and what fits already, come back as they are. A piece that has no border left to cut at is returned
    although it does not fit, for the caller to count. `gold["offset"]` places a piece in its document. A relation whose
    ends fall into different pieces is counted in `gold["cut_relations"]` (by label in `cut_types`) of the piece that
    holds its head, and scored as missed.
    """
    if card.type not in ("ner", "re") or fits(example.input_text, example.answer_text):
        return [example]
    document = document_of(example)
    borders = _borders(document)
    ranges: list[tuple[int, int]] = []
    start, guess = 0, len(document.text) // 2
    while start < len(document.text):
        end = _next_end(card, document, borders, start, guess, fits)
        ranges.append((start, end))
        start, guess = end, end - start
    pieces = [_piece(document, begin, end) for begin, end in ranges]
    cuts = _cut_relations(card, document, [piece for piece, _ in pieces])
    examples = []
    for number, (piece, offset) in enumerate(pieces):
        if piece.text or cuts[number]:
            examples.append(make_example(card, piece, offset=offset, piece=number, cut_relations=cuts[number].total()))
            if cuts[number]:
                examples[-1].gold["cut_types"] = dict(cuts[number])
    return examples


def _borders(document: Document) -> list[tuple[int, int]]:
    """(position, rank) of every place to cut at, ascending; rank 0 is a section border. The document's end is one."""
    ranks: dict[int, int] = {len(document.text): 0}
    for rank, pattern in enumerate(_BORDERS):
        for match in pattern.finditer(document.text):
            ranks.setdefault(match.end(), rank)
    inside = _covered(document.mentions)
    return [(position, rank) for position, rank in sorted(ranks.items()) if position > 0 and not inside(position)]


def _covered(mentions: tuple[Mention, ...]) -> Callable[[int], bool]:
    """Whether a cut at a position would go through a mention."""
    merged: list[list[int]] = []
    for mention in sorted(mentions, key=lambda mention: mention.start):
        if merged and mention.start < merged[-1][1]:
            merged[-1][1] = max(merged[-1][1], mention.end)
        else:
            merged.append([mention.start, mention.end])
    starts = [start for start, _ in merged]

    def inside(position: int) -> bool:
        index = bisect_right(starts, position) - 1
        return index >= 0 and merged[index][0] < position < merged[index][1]

    return inside


def _next_end(
    card: TaskCard, document: Document, borders: list[tuple[int, int]], start: int, guess: int, fits: Fits
) -> int:
    """The end of the piece that begins at `start`: the best border in the last half of the longest stretch that fits.

    Fitting is taken as monotone in the length, so a search that doubles or halves around the last piece's length finds
    the longest stretch with a handful of tokenisations.
    """
    first = bisect_right(borders, (start, len(_BORDERS)))
    low, high = first - 1, len(borders)  # borders[low] fits (or low is before the first), borders[high] does not
    probe = max(first, bisect_right(borders, (start + guess, len(_BORDERS))) - 1)
    step = 1
    while high - low > 1:
        probe = min(max(probe, low + 1), high - 1)
        if _fits(card, document, start, borders[probe][0], fits):
            low = probe
            probe = probe + step if high == len(borders) else (low + high) // 2
        else:
            high = probe
            probe = probe - step if low < first else (low + high) // 2
        step *= 2
    if low < first:
        return borders[first][0]
    longest = borders[low][0]
    if longest == len(document.text):
        return longest
    tail = [border for border in borders[first : low + 1] if border[0] - start > (longest - start) / 2]
    return min(tail, key=lambda border: (border[1], -border[0]))[0]


def _fits(card: TaskCard, document: Document, start: int, end: int, fits: Fits) -> bool:
    piece, offset = _piece(document, start, end)
    example = make_example(card, piece, offset=offset)
    return fits(example.input_text, example.answer_text)


def _piece(document: Document, start: int, end: int) -> tuple[Document, int]:
    """The stretch without the whitespace around it, its mentions relative to it; a relation stays if both its ends
    do.
    """
    inner = [mention for mention in document.mentions if start <= mention.start and mention.end <= end]
    text = document.text[start:end]
    # A mention may begin or end in whitespace: never trim into one.
    begin = min([start + len(text) - len(text.lstrip()), *(mention.start for mention in inner)])
    stop = max([start + len(text.rstrip()), begin, *(mention.end for mention in inner)])
    mentions = []
    for mention in inner:
        moved = dataclasses.replace(mention, start=mention.start - begin, end=mention.end - begin, fragments=())
        mentions.append(moved)
    known = _names(mentions)
    relations = tuple(item for item in document.relations if item.head in known and item.tail in known)
    return Document(document.doc_id, document.text[begin:stop], tuple(mentions), relations), begin


def _names(mentions: Iterable[Mention]) -> set[str]:
    """What a relation's end may be called: a mention's key or one of its concepts."""
    names: set[str] = set()
    for mention in mentions:
        names.update((mention.key, *mention.ids))
    return names


def _cut_relations(card: TaskCard, document: Document, pieces: list[Document]) -> list[Counter[str]]:
    """How many relations of each label no piece holds whole, each counted where its head (else the document) begins."""
    kept: set[Relation] = set()
    for piece in pieces:
        kept.update(piece.relations)
    names = [_names(piece.mentions) for piece in pieces]
    counts: list[Counter[str]] = [Counter() for _ in pieces]
    for relation in document.relations:
        if relation not in kept and card.keeps(relation.type):
            counts[_home(relation, names)][relation.type] += 1
    return counts


def _home(relation: Relation, names: list[set[str]]) -> int:
    for number, known in enumerate(names):
        if relation.head in known:
            return number
    return 0
