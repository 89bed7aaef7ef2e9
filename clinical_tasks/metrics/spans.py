"""Span and relation counts over documents. The BC5CDR evaluator (version 0.0.3) works on sets, and so does everything strict here."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from clinical_tasks.documents import Document, Mention, mention_order, one_line
from clinical_tasks.metrics.counts import Counts, set_counts
from clinical_tasks.readers.pubtator import strip_mesh


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
    """Overlap of at least one character with the same type, each gold mention matched at most once, exact matches first.

    `duplicates` says what a further prediction over a gold mention that is already matched is: `discard` drops it, as the
    n2c2-2018 script does; `set` and `penalise` count it as a false positive, as BC5CDR and brat_scoring do.
    """
    predicted_by_id = {document.doc_id: document for document in predicted_docs}
    tp = fp = fn = 0
    for gold in gold_docs:
        predicted = predicted_by_id.get(gold.doc_id, Document(gold.doc_id))
        one_tp, one_fp, one_fn = _lenient_document(_unique(gold), _unique(predicted), duplicates == "discard")
        tp, fp, fn = tp + one_tp, fp + one_fp, fn + one_fn
    return Counts(tp, fp, fn)


def text_set_counts(gold_docs: Iterable[Document], predicted: dict[str, set[tuple[str, str]]]) -> Counts:
    """Sets of (document, type, lower-cased mention text): what was found, wherever it stands. `predicted` is by document id."""
    gold_set = {
        (document.doc_id, mention.type, one_line(document.text[mention.start : mention.end]).casefold())
        for document in gold_docs
        for mention in document.mentions
    }
    predicted_set = {(doc_id, kind, text.casefold()) for doc_id, found in predicted.items() for kind, text in found}
    return set_counts(set(gold_set), set(predicted_set))


def _mention_set(documents: Iterable[Document], types: Collection[str] | None) -> set[object]:
    return {
        (document.doc_id, mention.type, mention.start, mention.end)
        for document in documents
        for mention in document.mentions
        if types is None or mention.type in types
    }


def _relation_set(documents: Iterable[Document]) -> set[object]:
    return {
        (document.doc_id, relation.type, strip_mesh(relation.head), strip_mesh(relation.tail))
        for document in documents
        for relation in document.relations
    }


def _unique(document: Document) -> list[Mention]:
    spans = {(mention.type, mention.start, mention.end): mention for mention in document.mentions}
    return sorted(spans.values(), key=mention_order)


def _lenient_document(gold: list[Mention], predicted: list[Mention], discard: bool) -> Counts:
    open_gold = {(mention.type, mention.start, mention.end): mention for mention in gold}
    rest = [mention for mention in predicted if open_gold.pop((mention.type, mention.start, mention.end), None) is None]
    fp = 0
    for mention in rest:
        hit = next((key for key, other in open_gold.items() if _overlap(mention, other)), None)
        if hit is not None:
            del open_gold[hit]
        elif not (discard and any(_overlap(mention, other) for other in gold)):
            fp += 1
    return Counts(len(gold) - len(open_gold), fp, len(open_gold))


def _overlap(one: Mention, other: Mention) -> bool:
    return one.type == other.type and one.start < other.end and other.start < one.end
