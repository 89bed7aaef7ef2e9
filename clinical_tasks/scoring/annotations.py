"""Gold and predicted mentions and relations of whole documents, and their counts under every matching rule.

Pieces of a long note are merged here, in the coordinates of the note, before anything is compared.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from clinical_tasks.metrics import DUPLICATES, Counts, lenient, overlap, set_counts, text_order
from clinical_tasks.readers import strip_mesh
from clinical_tasks.schema import Document, Example, TaskCard, one_line
from clinical_tasks.text_pairs import document_of

End = tuple[int, int, str]  # of a relation: start, end, type
ByLabel = dict[str, set[Any]]
NO_LABEL = ""  # of a line that names no label


def _by_label() -> ByLabel:
    return defaultdict(set)


@dataclass
class Annotated:
    """One whole document: label -> set of spans, of (end, end) for relations between mentions, or of (id, id) between
    concepts.

    `unaligned` are lines that name nothing of the text: a false positive each time. `missed` are gold relations that no
    piece holds. `texts` are, for mentions, label -> set of lower-cased texts.
    """

    gold: ByLabel = field(default_factory=_by_label)
    predicted: ByLabel = field(default_factory=_by_label)
    gold_texts: ByLabel = field(default_factory=_by_label)
    predicted_texts: ByLabel = field(default_factory=_by_label)
    unaligned: Counter[str] = field(default_factory=Counter)
    missed: Counter[str] = field(default_factory=Counter)


def merge_mentions(
    card: TaskCard, examples: Sequence[Example], predictions: Sequence[dict[str, Any]]
) -> dict[str, Annotated]:
    """By document id."""
    merged: dict[str, Annotated] = defaultdict(Annotated)
    for example, prediction in zip(examples, predictions, strict=True):
        whole, offset, document = merged[example.document], example.gold["offset"], document_of(example)
        for mention in document.mentions:
            whole.gold[mention.type].add((mention.start + offset, mention.end + offset))
            whole.gold_texts[mention.type].add(one_line(document.text[mention.start : mention.end]).casefold())
        for span in prediction["spans"]:
            whole.predicted[span["type"]].add((span["start"], span["end"]))
            whole.predicted_texts[span["type"]].add(span["text"].casefold())
        for line, label in zip(prediction["unaligned"], prediction["unaligned_types"], strict=True):
            whole.unaligned[label] += 1
            # What names no span was still predicted: by its text it belongs to the text set, where repeats do not
            # count.
            text = line
            if label != NO_LABEL:
                text = line.removeprefix(f"{card.written(label)}: ")
            whole.predicted_texts[label].add(text.casefold())
    return dict(merged)


def merge_relations(
    card: TaskCard, examples: Sequence[Example], predictions: Sequence[dict[str, Any]]
) -> dict[str, Annotated]:
    """By document id. Relations between mentions are compared by the spans and types of their ends: two mentions
    alike are one.
    """
    merged: dict[str, Annotated] = defaultdict(Annotated)
    for example, prediction in zip(examples, predictions, strict=True):
        whole = merged[example.document]
        ends = _ends(card, document_of(example), example.gold["offset"])
        for items, into in ((example.gold["relations"], whole.gold), (prediction["relations"], whole.predicted)):
            for item in items:
                pair = ends.get(item["head"], item["head"]), ends.get(item["tail"], item["tail"])
                into[item["type"]].add(tuple(sorted(pair)) if card.relations.symmetric else pair)
        whole.unaligned.update(prediction["unaligned_types"])
        whole.missed.update(example.gold.get("cut_types", {}))
    return dict(merged)


def _ends(card: TaskCard, document: Document, offset: int) -> Mapping[str, Any]:
    """What a relation's end stands for: a mention's key for its place and type, a concept for its identifier
    without `MESH:`.
    """
    if card.relations.level == "entity":
        names: set[str] = set()
        for relation in document.relations:
            names.update((relation.head, relation.tail))
        for mention in document.mentions:
            names.update(mention.ids)
        return {name: strip_mesh(name) for name in names}
    return {m.key: (m.start + offset, m.end + offset, m.type) for m in document.mentions}


def rules_of(card: TaskCard) -> tuple[str, ...]:
    """The matching rules under which a task's annotations are counted."""
    if card.type == "re" and card.relations.level == "entity":
        return ("strict",)
    rules = ["strict", "lenient", "n2c2_2018", "brat_scoring"]
    if card.type == "re" or card.triggers:
        rules.append("sdoh_2022")
    if card.type != "re":
        rules.append("text_set")
    return tuple(rules)


def annotation_counts(card: TaskCard, document: Annotated) -> dict[tuple[str, str], Counts]:
    """(rule, label) -> counts; the labels of a rule are independent of one another, so its micro score is that of
    their sums.
    """
    found = dict(_matched(card, document))
    for (rule, label), counts in found.items():
        # A line that names nothing of the text is false each time it is written; in a set of texts it is an element
        # already.
        extra = 0 if rule == "text_set" else document.unaligned[label]
        found[rule, label] = counts._replace(fp=counts.fp + extra, fn=counts.fn + document.missed[label])
    return found


def _matched(card: TaskCard, document: Annotated) -> Iterator[tuple[tuple[str, str], Counts]]:
    relations = card.type == "re"
    labels = {*document.gold, *document.predicted, *document.unaligned, *document.missed}
    for label in sorted(labels):
        gold, predicted = document.gold.get(label, set()), document.predicted.get(label, set())
        strict = set_counts(gold, predicted)
        yield ("strict", label), strict
        if relations and card.relations.level == "entity":
            continue
        lenient_counts = _lenient(card, gold, predicted)
        for rule, counts in lenient_counts.items():
            yield (rule, label), counts
        if not relations and card.triggers:
            yield ("sdoh_2022", label), lenient_counts["brat_scoring"] if label in card.triggers else strict
    if relations and card.relations.level == "mention":
        for label, counts in _event_arguments(document, sorted(labels)).items():
            yield ("sdoh_2022", label), counts
    if not relations:
        for label in sorted({*document.gold_texts, *document.predicted_texts}):
            gold, predicted = document.gold_texts.get(label, set()), document.predicted_texts.get(label, set())
            yield ("text_set", label), set_counts(gold, predicted)


def _lenient(card: TaskCard, gold: set[Any], predicted: set[Any]) -> dict[str, Counts]:
    """Overlap of at least one character and the same type (of a relation: at both ends), under each rule for
    duplicates.
    """
    if card.type == "re":
        found = lenient(sorted(gold, key=_relation_order), sorted(predicted, key=_relation_order), _relations_touch)
    else:
        found = lenient(sorted(gold, key=text_order), sorted(predicted, key=text_order), overlap)
    found["lenient"] = found[DUPLICATES[card.duplicates]]
    del found["exact_first"]
    return found


def _event_arguments(document: Annotated, labels: Sequence[str]) -> dict[str, Counts]:
    """n2c2-2022: heads are triggers, paired one to one by overlap and type; an argument is right if its trigger's
    pair has it exactly.
    """
    predicted = _heads(document.predicted)
    paired: dict[End, End] = {}
    for one in _heads(document.gold):
        for other in predicted:
            if other not in paired and _ends_touch(one, other):
                paired[other] = one
                break
    counts = {}
    for label in labels:
        named: set[Any] = set()
        for head, tail in document.predicted.get(label, ()):
            # A prediction under a trigger without a pair equals no gold relation.
            named.add((paired[head], tail) if head in paired else (None, head, tail))
        counts[label] = set_counts(set(document.gold.get(label, ())), named)
    return counts


def _heads(side: ByLabel) -> list[End]:
    """The heads of all relations, each once, in text order."""
    heads: set[End] = set()
    for pairs in side.values():
        heads.update(head for head, _ in pairs)
    return sorted(heads, key=_end_order)


def _end_order(end: End) -> tuple[int, int, str]:
    return end[0], -end[1], end[2]


def _relation_order(pair: tuple[End, End]) -> tuple[Any, ...]:
    return _end_order(pair[0]), _end_order(pair[1])


def _ends_touch(one: End, other: End) -> bool:
    return one[2] == other[2] and overlap(one[:2], other[:2])


def _relations_touch(one: tuple[End, End], other: tuple[End, End]) -> bool:
    return _ends_touch(one[0], other[0]) and _ends_touch(one[1], other[1])
