"""Answers to a task's metrics. Fractions from 0 to 1, counts under names that begin with `n_`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from clinical_tasks.metrics import LEVEL, RESAMPLES, Array, interval, replicate
from clinical_tasks.schema import Example, TaskCard
from clinical_tasks.scoring.counts import tally


@dataclass(frozen=True)
class Evaluation:
    """Scores of one set of answers, and how sure one can be of them.

    `replicates`: metric -> its value on each resample of the documents (empty where there are fewer than two documents,
        or none
    was asked for). `labels`: label -> precision, recall, f1, support, predicted, as the card's metric counts them;
    empty for free text.
    """

    scores: dict[str, float]
    replicates: dict[str, Array]
    labels: dict[str, dict[str, float]]
    resampling: dict[str, int | float | str]

    def intervals(self) -> dict[str, tuple[float, float]]:
        """Percentile intervals over documents."""
        return {name: interval(values) for name, values in self.replicates.items()}


def evaluate(
    card: TaskCard, examples: Sequence[Example], answers: Sequence[str], *, resamples: int = RESAMPLES, seed: int = 0
) -> Evaluation:
    """All metrics of the card's type, the primary one under `card.metric`, with the bootstrap over documents and a
    table of labels.

    An example that was dropped belongs in `examples` all the same, with an empty answer: what was not asked was not
    found.
    """
    counted = tally(card, examples, answers)
    possible = resamples > 0 and counted.n_documents > 1
    drawn = replicate(counted.columns, counted.statistics, resamples, seed) if possible else {}
    resampling: dict[str, int | float | str] = {
        "unit": "document",
        "n_documents": counted.n_documents,
        "resamples": resamples if possible else 0,
        "seed": seed,
        "level": LEVEL,
    }
    return Evaluation(counted.scores(), drawn, counted.label_table(card.metric), resampling)


def score(card: TaskCard, examples: Sequence[Example], answers: Sequence[str]) -> dict[str, float]:
    """The scores alone."""
    return tally(card, examples, answers).scores()


def round_trip(card: TaskCard, examples: Sequence[Example]) -> dict[str, float]:
    """The ceiling: the score of the gold answers themselves, as written and read back."""
    return score(card, examples, [example.answer_text for example in examples])
