"""Bootstrap over documents: intervals of every score that is a function of sums over documents, and all official ones
are.

Efron, Bootstrap Methods: Another Look at the Jackknife, 1979; percentile interval. The unit is the document, for
mentions of one note, questions on one abstract and pieces of one long note stand or fall together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 1000
LEVEL = 0.95
_CELLS = 4_000_000  # of the matrix of weights that is held at once

Array = NDArray[np.float64]


class Statistic(NamedTuple):
    """A score: which per-document sums it is made of, and how. `of_totals` maps (N, columns) totals to N values."""

    block: str
    of_totals: Callable[[Array], Array]


def resample_indices(n_documents: int, resamples: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """Chunks (resamples, documents) of drawn document numbers, the same for the same arguments."""
    generator = np.random.default_rng(seed)
    chunk = max(1, _CELLS // n_documents)
    for start in range(0, resamples, chunk):
        yield generator.integers(0, n_documents, size=(min(chunk, resamples - start), n_documents))


def replicate(
    columns: dict[str, Array], statistics: dict[str, Statistic], resamples: int, seed: int
) -> dict[str, Array]:
    """Each score on each resample of the documents, from `columns`: block -> (documents, columns) sums of each
    document.

    Two runs over the same number of documents draw alike, so that replicates may be averaged or subtracted, resample by
    resample.
    """
    names = list(columns)
    table = np.concatenate([columns[name] for name in names], axis=1)
    ends = np.cumsum([columns[name].shape[1] for name in names])
    parts: list[Array] = []
    for drawn in resample_indices(len(table), resamples, seed):
        count, documents = drawn.shape
        # How often each document was drawn, for a whole chunk at once; its sums then come by one product.
        flat = (drawn + np.arange(count)[:, None] * documents).ravel()
        weights = np.bincount(flat, minlength=count * documents).reshape(count, documents)
        parts.append(weights.astype(np.float64) @ table)
    totals = dict(zip(names, np.split(np.concatenate(parts), ends[:-1], axis=1), strict=True))
    return {name: statistic.of_totals(totals[statistic.block]) for name, statistic in statistics.items()}


def interval(replicates: Array) -> tuple[float, float]:
    """The percentile interval at `LEVEL`."""
    low, high = np.quantile(replicates, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def precision_of(totals: Array) -> Array:
    """From (tp, fp, fn); 1 where there is nothing to find and nothing was found, as in `precision_recall_f1`."""
    tp, fp, fn = totals.T
    return _ratio(tp, tp + fp, otherwise=fn == 0)


def recall_of(totals: Array) -> Array:
    """From (tp, fp, fn)."""
    tp, fp, fn = totals.T
    return _ratio(tp, tp + fn, otherwise=fp == 0)


def f1_of(totals: Array) -> Array:
    """From (tp, fp, fn)."""
    tp, fp, fn = totals.T
    return _ratio(2 * tp, 2 * tp + fp + fn, otherwise=np.ones_like(tp, dtype=bool))


def mean_of(column: int) -> Callable[[Array], Array]:
    """Mean over examples: a column of sums by the last one, which counts the examples."""
    return lambda totals: _ratio(totals[:, column], totals[:, -1], otherwise=np.zeros(len(totals), dtype=bool))


def macro_f1_of(totals: Array) -> Array:
    """From (tp, wrong) for each label, `wrong` false positives and negatives: mean F1 over the labels that occur in
    gold or prediction.
    """
    tp, wrong = totals[:, 0::2], totals[:, 1::2]
    occurs = tp + wrong > 0
    f1 = np.where(occurs, 2 * tp / np.where(occurs, 2 * tp + wrong, 1), 0.0)
    return _ratio(f1.sum(axis=1), occurs.sum(axis=1), otherwise=np.zeros(len(totals), dtype=bool))


def _ratio(numerator: Array, denominator: Array, otherwise: NDArray[np.bool_]) -> Array:
    return np.where(
        denominator > 0, numerator / np.where(denominator > 0, denominator, 1), otherwise.astype(np.float64)
    )
