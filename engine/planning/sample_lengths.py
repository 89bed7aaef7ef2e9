"""Lengths of the samples that a plan counts: those of the token cache where the corpora are in it, else assumed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import clinical_tasks
from engine.core import UserError
from engine.data import Sample, Split, TaskData, is_tokenised

if TYPE_CHECKING:  # plan checks its flags before torch is loaded
    from engine.training import RunContext


@dataclass(frozen=True)
class Assumed:
    """Where no corpus can be read: mean tokens of a sample (they are half to one and a half times as long) and of
    its answer, a task's training examples.
    """

    sample_tokens: int
    answer_tokens: int
    examples: int

    def told(self) -> str:
        return (
            f"assumed: {self.sample_tokens:,} tokens a sample, {self.answer_tokens} of them answer, "
            f"{self.examples:,} training examples a task"
        )


class AssumedSplit:
    """Stands for a split: rows of assumed length."""

    key, n_dropped, n_excluded = "assumed", 0, 0

    def __init__(self, assumed: Assumed, longest: int, rows: int):
        self.assumed, self.longest, self.sample_indices = assumed, longest, list(range(rows))

    def labels(self) -> list[str] | None:
        return None

    def sample(self, index: int, row: int = 0) -> Sample:
        context, answer = self._lengths(index)
        return Sample([0] * context, [0] * answer, row, index)

    def _lengths(self, index: int) -> tuple[int, int]:
        mean = self.assumed.sample_tokens
        # Knuth's multiplicative hash: even, and always the same
        size = max(2, min(self.longest, mean // 2 + index * 2654435761 % (mean + 1)))
        answer = min(size, max(1, round(self.assumed.answer_tokens * size / mean)))
        return size - answer, answer

    def context_lengths(self) -> list[int]:
        return [self._lengths(index)[0] for index in self.sample_indices]

    def answer_lengths(self) -> list[int]:
        return [self._lengths(index)[1] for index in self.sample_indices]


def data_for(run_context: "RunContext", mode: str, assumed: Assumed) -> tuple[dict[str, TaskData], str]:
    """Splits that a mode trains and validates on, and where their lengths come from. Nothing is tokenised."""
    c = run_context.config
    tasks = [*c.distill.tasks, *c.adapt.targets]
    own = {"distill": c.distill.tasks, "adapt": c.adapt.targets}.get(mode, tasks)
    found = _cached(run_context, own) if own and c.data.root else None
    if found is not None:
        whose = "task's" if len(found) == 1 else "tasks'"
        return found, f"lengths of {len(found)} {whose} samples from {c.data.cache}"
    validation = min(c.data.max_validation or 100, assumed.examples)
    train = min(c.data.max_train or assumed.examples, assumed.examples)
    splits = {
        "train": AssumedSplit(assumed, c.data.max_length, train),
        "validation": AssumedSplit(assumed, c.data.max_length, validation),
    }
    return {task: TaskData(cast(Any, None), cast(dict[str, Split], splits)) for task in own}, assumed.told()


def _cached(run_context: "RunContext", tasks: Sequence[str]) -> dict[str, TaskData] | None:
    """The tasks' splits if all of them are tokenised already."""
    c = run_context.config
    wanted: dict[str, Sequence[str]] = {task: ("train", "validation") for task in tasks}
    try:
        if not is_tokenised(wanted, c.data, run_context.layout):
            return None
    except (UserError, KeyError, OSError, clinical_tasks.ReadError, clinical_tasks.CardError):
        return None  # no corpora here, or others
    return run_context.data(wanted)
