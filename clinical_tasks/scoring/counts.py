"""Answers to sums per document, pieces of long notes merged first: what every score, interval and table of labels
is made of.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clinical_tasks.metrics import (
    ROUGE_TYPES,
    Array,
    Counts,
    Statistic,
    exact_match,
    f1_of,
    macro_f1_of,
    mean_of,
    precision_of,
    precision_recall_f1,
    recall_of,
    rouge_scores,
    token_f1,
)
from clinical_tasks.schema import Example, TaskCard
from clinical_tasks.scoring.annotations import Annotated, annotation_counts, merge_mentions, merge_relations, rules_of
from clinical_tasks.text_pairs import parse_answer

# Row of the table of labels for predictions that name no label of the task. What was written there instead is the
# model's text.
OTHER = "(no label of the task)"


@dataclass
class Tally:
    """Everything about one set of answers. `columns`: block -> (documents, columns); documents are sorted by their id.

    `counts` are the results that are no score of documents: `n_...`, and settings. `labels` is by block: label ->
    counts.
    """

    n_documents: int
    columns: dict[str, Array]
    statistics: dict[str, Statistic]
    counts: dict[str, float]
    labels: dict[str, dict[str, Counts]] = field(default_factory=dict)

    def scores(self) -> dict[str, float]:
        """Every metric of the card's type on all documents, and the counts."""
        found: dict[str, float] = {}
        for name, statistic in self.statistics.items():
            totals = self.columns[statistic.block].sum(axis=0, keepdims=True)
            found[name] = float(statistic.of_totals(totals)[0])
        return found | self.counts

    def label_table(self, metric: str) -> dict[str, dict[str, float]]:
        """Precision, recall, F1, support (gold annotations or examples) and number of predictions of each label, as
        `metric` counts them.
        """
        table = {}
        for label, counts in self.labels.get(self.statistics[metric].block, {}).items():
            precision, recall, f1 = precision_recall_f1(counts)
            sizes = {"support": float(counts.tp + counts.fn), "predicted": float(counts.tp + counts.fp)}
            table[label] = {"precision": precision, "recall": recall, "f1": f1} | sizes
        return table


def tally(card: TaskCard, examples: Sequence[Example], answers: Sequence[str]) -> Tally:
    """Parse, merge and count.

    An example that was dropped belongs in `examples` all the same, with an empty answer: what was not asked was not
    found.
    """
    if len(examples) != len(answers):
        raise ValueError(f"{len(examples)} examples but {len(answers)} answers for task {card.name}")
    predictions = [parse_answer(card, example, answer) for example, answer in zip(examples, answers, strict=True)]
    if card.type == "ner":
        return _annotations(
            card, kind="span", merged=merge_mentions(card, examples, predictions), predictions=predictions, counts={}
        )
    if card.type == "re":
        cut = float(sum(example.gold["cut_relations"] for example in examples))
        return _annotations(
            card,
            kind="relation",
            merged=merge_relations(card, examples, predictions),
            predictions=predictions,
            counts={"n_cut": cut},
        )
    if card.type == "nli" or (card.type == "qa" and (card.options or card.labels)):
        return _choices(card, examples, [prediction["label"] for prediction in predictions])
    return _texts(card, examples, [prediction["text"] for prediction in predictions])


def _annotations(
    card: TaskCard,
    kind: str,
    merged: dict[str, Annotated],
    predictions: Sequence[dict[str, Any]],
    counts: dict[str, float],
) -> Tally:
    known = set(card.labels)
    for document in merged.values():
        known.update(document.gold, document.missed)
    rows = {rule: np.zeros((len(merged), 3)) for rule in rules_of(card)}
    labels = {rule: _no_counts(sorted(known)) for rule in rows}
    for number, doc_id in enumerate(sorted(merged)):
        for (block, label), found in annotation_counts(card, merged[doc_id]).items():
            rows[block][number] += found
            row = label if label in known else OTHER
            labels[block].setdefault(row, np.zeros(3))
            labels[block][row] += found
    tp, fp, fn = rows["strict"].sum(axis=0)
    unaligned = float(sum(len(prediction["unaligned"]) for prediction in predictions))
    counts = {
        "n_gold": float(tp + fn),
        "n_predicted": float(tp + fp),
        "n_unaligned": unaligned,
        "n_pieces": float(len(predictions)),
    } | counts
    tables = {block: _as_counts(table) for block, table in labels.items()}
    return Tally(len(merged), rows, _annotation_statistics(kind, rows), counts, tables)


def _annotation_statistics(kind: str, blocks: Iterable[str]) -> dict[str, Statistic]:
    statistics = {}
    for block in blocks:
        if block == "text_set":
            statistics["text_set_f1"] = Statistic(block, f1_of)
            continue
        # The plain name of a relation score is the strict one.
        suffix = "" if (kind, block) == ("relation", "strict") else f"_{block}"
        for name, of_totals in (("f1", f1_of), ("precision", precision_of), ("recall", recall_of)):
            statistics[f"{kind}_{name}{suffix}"] = Statistic(block, of_totals)
    return statistics


def _choices(card: TaskCard, examples: Sequence[Example], predicted: Sequence[str | None]) -> Tally:
    gold = [str(example.gold["label"]) for example in examples]
    labels = sorted({*gold, *(label for label in predicted if label is not None)})
    number = {label: index for index, label in enumerate(labels)}
    place, n_documents = _places(examples)
    hits = np.array([one == other for one, other in zip(gold, predicted, strict=True)], dtype=np.float64)
    right = np.zeros((n_documents, 2))
    np.add.at(right, place, np.stack([hits, np.ones(len(gold))], axis=1))
    # For each label: true positives, and false ones of either kind. A wrong answer is wrong for both labels, no answer
    # for the gold one.
    confusion = np.zeros((n_documents, 2 * len(labels)))
    table = _no_counts([*card.labels.values(), *labels])
    for row, one, other in zip(place, gold, predicted, strict=True):
        if one == other:
            confusion[row, 2 * number[one]] += 1
            table[one][0] += 1
            continue
        confusion[row, 2 * number[one] + 1] += 1
        table[one][2] += 1
        if other is not None:
            confusion[row, 2 * number[other] + 1] += 1
            table[other][1] += 1
    counts = {"n_examples": float(len(gold)), "n_unparsed": float(predicted.count(None))}
    statistics = {"accuracy": Statistic("right", mean_of(0)), "macro_f1": Statistic("confusion", macro_f1_of)}
    columns, rows = {"right": right, "confusion": confusion}, _as_counts(table)
    return Tally(n_documents, columns, statistics, counts, {"right": rows, "confusion": rows})


def _texts(card: TaskCard, examples: Sequence[Example], answers: Sequence[str]) -> Tally:
    references = [example.gold["references"] for example in examples]
    counts = {"n_examples": float(len(answers)), "n_empty": float(answers.count(""))}
    found = {"exact_match": [exact_match(one, answer) for one, answer in zip(references, answers, strict=True)]}
    if card.type == "summarization":
        pairs = rouge_scores([one[0] for one in references], answers, stemmer=card.rouge_stemmer)
        for index, name in enumerate(ROUGE_TYPES):
            found[name] = [pair[index] for pair in pairs]
        counts["rouge_stemmer"] = float(card.rouge_stemmer)
    else:
        found["token_f1"] = [token_f1(one, answer) for one, answer in zip(references, answers, strict=True)]
    place, n_documents = _places(examples)
    sums = np.zeros((n_documents, len(found) + 1))
    np.add.at(sums, place, np.array([*found.values(), [1.0] * len(answers)]).T)
    statistics = {name: Statistic("text", mean_of(index)) for index, name in enumerate(found)}
    return Tally(n_documents, {"text": sums}, statistics, counts)


def _places(examples: Sequence[Example]) -> tuple[NDArray[np.int64], int]:
    """For each example the row of its document, and the number of documents."""
    documents = [example.document for example in examples]
    order = {doc_id: row for row, doc_id in enumerate(sorted(set(documents)))}
    return np.array([order[doc_id] for doc_id in documents], dtype=np.int64), len(order)


def _no_counts(labels: Iterable[str]) -> dict[str, Array]:
    """Label -> (true positives, false positives, false negatives), all 0."""
    return {label: np.zeros(3) for label in labels}


def _as_counts(table: dict[str, Array]) -> dict[str, Counts]:
    counts = {}
    for label, (tp, fp, fn) in table.items():
        counts[label] = Counts(int(tp), int(fp), int(fn))
    return counts
