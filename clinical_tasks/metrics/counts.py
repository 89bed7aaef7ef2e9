"""Precision, recall and F1 from counts, and set comparison.

Fractions from 0 to 1; all are 1 where there is nothing to find and nothing was found.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence, Set as AbstractSet
from typing import NamedTuple


class Counts(NamedTuple):
    """True positives, false positives, false negatives."""

    tp: int
    fp: int
    fn: int


def set_counts(gold: AbstractSet[Hashable], predicted: AbstractSet[Hashable]) -> Counts:
    """Compare two sets: repeats never count, neither for nor against."""
    return Counts(len(gold & predicted), len(predicted - gold), len(gold - predicted))


def precision_recall_f1(counts: Counts) -> tuple[float, float, float]:
    """Micro precision, recall and F1."""
    tp, fp, fn = counts
    precision = tp / (tp + fp) if tp + fp else float(fn == 0)
    recall = tp / (tp + fn) if tp + fn else float(fp == 0)
    f1 = 2 * tp / (2 * tp + fp + fn) if tp + fp + fn else 1.0
    return precision, recall, f1


def macro_f1(gold: Sequence[str], predicted: Sequence[str | None]) -> float:
    """Mean F1 over the labels that occur in gold or prediction; an answer without a label (None) is a miss for its
    gold label.
    """
    labels = sorted({*gold, *(label for label in predicted if label is not None)})
    scores = []
    for label in labels:
        tp = sum(one == other == label for one, other in zip(gold, predicted, strict=True))
        wrong = sum((one == label) != (other == label) for one, other in zip(gold, predicted, strict=True))
        scores.append(2 * tp / (2 * tp + wrong))
    return sum(scores) / len(scores) if scores else 0.0
