"""Span and relation counts over documents. The BC5CDR evaluator (version 0.0.3) works on sets, and so does
everything strict here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from clinical_tasks.metrics.counts import Counts, set_counts
from clinical_tasks.metrics.matching import DUPLICATES, lenient
from clinical_tasks.readers import strip_mesh
from clinical_tasks.schema import Document

Span = tuple[int, int]


def pubtator_mention_counts(
    gold_docs: Iterable[Document], predicted_docs: Iterable[Document], types: Collection[str] | None = ("Disease",)
) -> Counts:
    """BC5CDR mention evaluation: sets of (document, type, start, end).

    `types` defaults to the challenge's DNER task, which evaluates diseases alone; None compares all types.
    """
    return set_counts(_mention_set(gold_docs, types), _mention_set(predicted_docs, types))


def pubtator_relation_counts(gold_docs: Iterable[Document], predicted_docs: Iterable[Document]) -> Counts:
    """BC5CDR relation evaluation: sets of (document, type, head, tail), identifiers without their `MESH:`."""
    return set_counts(_relation_set(gold_docs), _relation_set(predicted_docs))


def lenient_counts(gold_docs: Sequence[Document], predicted_docs: Sequence[Document], duplicates: str) -> Counts:
    """Overlap of at least one character with the same type, under the rule for further predictions over one gold
    mention.

    `discard` is that of the n2c2-2018 script, `penalise` that of brat_scoring, `set` takes exact matches first
    (`matching.py`).
    """
    predicted_by_id = {document.doc_id: document for document in predicted_docs}
    tp = fp = fn = 0
    for document in gold_docs:
        gold, predicted = _by_type(document), _by_type(predicted_by_id.get(document.doc_id, Document(document.doc_id)))
        for kind in {*gold, *predicted}:
            found = lenient(
                sorted(gold.get(kind, ()), key=text_order), sorted(predicted.get(kind, ()), key=text_order), overlap
            )[DUPLICATES[duplicates]]
            tp, fp, fn = tp + found.tp, fp + found.fp, fn + found.fn
    return Counts(tp, fp, fn)


def text_order(span: Span) -> tuple[int, int]:
    """By start, the longer first."""
    return span[0], -span[1]


def overlap(one: Span, other: Span) -> bool:
    """Whether two spans share a character."""
    return one[0] < other[1] and other[0] < one[1]


def _by_type(document: Document) -> dict[str, set[Span]]:
    found: dict[str, set[Span]] = {}
    for mention in document.mentions:
        found.setdefault(mention.type, set()).add((mention.start, mention.end))
    return found


def _mention_set(documents: Iterable[Document], types: Collection[str] | None) -> set[object]:
    found: set[object] = set()
    for document in documents:
        for mention in document.mentions:
            if types is None or mention.type in types:
                found.add((document.doc_id, mention.type, mention.start, mention.end))
    return found


def _relation_set(documents: Iterable[Document]) -> set[object]:
    found: set[object] = set()
    for document in documents:
        for relation in document.relations:
            found.add((document.doc_id, relation.type, strip_mesh(relation.head), strip_mesh(relation.tail)))
    return found
