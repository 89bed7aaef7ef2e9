"""Answers to a task's metrics, pieces merged by document first. Fractions from 0 to 1, counts under names that begin with `n_`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from clinical_tasks.card import TaskCard
from clinical_tasks.documents import Document, Example, Mention, Relation
from clinical_tasks.metrics.counts import Counts, macro_f1, precision_recall_f1
from clinical_tasks.metrics.spans import lenient_counts, pubtator_mention_counts, pubtator_relation_counts, text_set_counts
from clinical_tasks.metrics.text import exact_match, rouge, token_f1
from clinical_tasks.parsing import parse_answer
from clinical_tasks.serialise import document_of


def score(card: TaskCard, examples: Sequence[Example], answers: Sequence[str]) -> dict[str, float]:
    """All metrics of the card's type, the primary one under `card.metric`.

    An example that was dropped belongs in `examples` all the same, with an empty answer: what was not asked was not found.
    """
    if len(examples) != len(answers):
        raise ValueError(f"{len(examples)} examples but {len(answers)} answers for task {card.name}")
    predictions = [parse_answer(card, example, answer) for example, answer in zip(examples, answers, strict=True)]
    if card.type == "ner":
        return _score_mentions(card, examples, predictions)
    if card.type == "re":
        return _score_relations(card, examples, predictions)
    if examples and "options" in examples[0].gold:
        return _score_choices(card, examples, predictions)
    return _score_text(card, examples, [prediction["text"] for prediction in predictions])


def round_trip(card: TaskCard, examples: Sequence[Example]) -> dict[str, float]:
    """The ceiling: the score of the gold answers themselves, as written and read back."""
    return score(card, examples, [example.answer_text for example in examples])


@dataclass
class _Merged:
    """A document put together from its pieces; spans are in document coordinates."""

    gold: list[Mention] = field(default_factory=list)
    predicted: list[Mention] = field(default_factory=list)
    gold_relations: list[Relation] = field(default_factory=list)
    predicted_relations: list[Relation] = field(default_factory=list)


def _score_mentions(card: TaskCard, examples: Sequence[Example], predictions: Sequence[dict[str, Any]]) -> dict[str, float]:
    merged: dict[str, _Merged] = {}
    pieces: list[Document] = []
    found: dict[str, set[tuple[str, str]]] = {}
    unaligned = 0
    for example, prediction in zip(examples, predictions, strict=True):
        whole = merged.setdefault(example.document, _Merged())
        offset = example.gold["offset"]
        whole.gold += [Mention("", span["type"], span["start"] + offset, span["end"] + offset) for span in example.gold["spans"]]
        whole.predicted += [Mention("", span["type"], span["start"], span["end"]) for span in prediction["spans"]]
        pieces.append(document_of(example))
        texts = found.setdefault(example.document, set())
        texts |= {(span["type"], span["text"]) for span in prediction["spans"]}
        # What names no span was still predicted: by its text it is a miss of the text set as well.
        texts |= {("", line) for line in prediction["unaligned"]}
        unaligned += len(prediction["unaligned"])
    gold = [Document(doc_id, mentions=tuple(whole.gold)) for doc_id, whole in merged.items()]
    predicted = [Document(doc_id, mentions=tuple(whole.predicted)) for doc_id, whole in merged.items()]
    strict = _with_unaligned(pubtator_mention_counts(gold, predicted, types=None), unaligned)
    lenient = _with_unaligned(lenient_counts(gold, predicted, card.duplicates), unaligned)
    result = _named("span", "_strict", strict) | _named("span", "_lenient", lenient)
    result["text_set_f1"] = precision_recall_f1(text_set_counts(pieces, found))[2]
    return result | {"n_gold": float(strict.tp + strict.fn), "n_predicted": float(strict.tp + strict.fp), "n_unaligned": float(unaligned)}


def _score_relations(card: TaskCard, examples: Sequence[Example], predictions: Sequence[dict[str, Any]]) -> dict[str, float]:
    merged: dict[str, _Merged] = {}
    unaligned = cut = 0
    for example, prediction in zip(examples, predictions, strict=True):
        whole = merged.setdefault(example.document, _Merged())
        whole.gold_relations += [Relation(item["type"], item["head"], item["tail"]) for item in example.gold["relations"]]
        whole.predicted_relations += [Relation(item["type"], item["head"], item["tail"]) for item in prediction["relations"]]
        unaligned += len(prediction["unaligned"])
        cut += example.gold["cut_relations"]
    gold = [Document(doc_id, relations=tuple(whole.gold_relations)) for doc_id, whole in merged.items()]
    predicted = [Document(doc_id, relations=tuple(whole.predicted_relations)) for doc_id, whole in merged.items()]
    counts = _with_unaligned(pubtator_relation_counts(gold, predicted), unaligned)
    # A relation that splitting cut is in the corpus and cannot be found.
    counts = counts._replace(fn=counts.fn + cut)
    return _named("relation", "", counts) | {
        "n_gold": float(counts.tp + counts.fn),
        "n_predicted": float(counts.tp + counts.fp),
        "n_unaligned": float(unaligned),
        "n_cut": float(cut),
    }


def _score_choices(card: TaskCard, examples: Sequence[Example], predictions: Sequence[dict[str, Any]]) -> dict[str, float]:
    gold = [example.gold["label"] for example in examples]
    predicted = [prediction["label"] for prediction in predictions]
    hits = sum(one == other for one, other in zip(gold, predicted, strict=True))
    return {
        "accuracy": hits / max(1, len(gold)),
        "macro_f1": macro_f1(gold, predicted),
        "n_examples": float(len(gold)),
        "n_unparsed": float(sum(label is None for label in predicted)),
    }


def _score_text(card: TaskCard, examples: Sequence[Example], answers: Sequence[str]) -> dict[str, float]:
    references = [example.gold["references"] for example in examples]
    pairs = list(zip(references, answers, strict=True))
    result = {
        "exact_match": sum(exact_match(one, answer) for one, answer in pairs) / max(1, len(pairs)),
        "n_examples": float(len(pairs)),
        "n_empty": float(sum(not answer for answer in answers)),
    }
    if card.type == "summarization":
        return rouge([one[0] for one in references], answers, stemmer=card.rouge_stemmer) | result
    return {"token_f1": sum(token_f1(one, answer) for one, answer in pairs) / max(1, len(pairs))} | result


def _with_unaligned(counts: Counts, unaligned: int) -> Counts:
    """A line that names no span of the text is a false positive, each time it is written."""
    return counts._replace(fp=counts.fp + unaligned)


def _named(kind: str, suffix: str, counts: Counts) -> dict[str, float]:
    precision, recall, f1 = precision_recall_f1(counts)
    return {f"{kind}_f1{suffix}": f1, f"{kind}_precision{suffix}": precision, f"{kind}_recall{suffix}": recall}
