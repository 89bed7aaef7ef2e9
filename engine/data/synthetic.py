"""Invented token rows in place of corpora: to measure a machine, nobody needs data. Their scores mean nothing."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from clinical_tasks import TaskCard
from engine.core import UserError
from engine.data.dataset import Split, TaskData

ROWS = 512  # of a task: read again once they are through, as a small corpus is


@dataclass(frozen=True)
class Invention:
    """Mean tokens of a row's context and of its answer, and rows of a task."""

    context: int
    answer: int
    rows: int = ROWS


def invention_of(text: str, max_length: int) -> Invention:
    """``CONTEXT,ANSWER`` or ``CONTEXT,ANSWER,ROWS``.

    Raises:
        UserError: no two whole numbers, or rows would be longer than ``max_length``.
    """
    parts = [p.strip() for p in text.split(",")]
    if len(parts) not in (2, 3) or not all(p.isdecimal() for p in parts) or min(map(int, parts[1:])) < 1:
        raise UserError(
            "command line: --invented: must be CONTEXT,ANSWER[,ROWS], whole numbers: mean tokens of contexts and of "
            f"answers, rows of a task, such as 200,20 or 200,20,5000; got {text!r}"
        )
    context, answer, *rows = map(int, parts)
    if longest(context) + longest(answer) > max_length:
        raise UserError(
            f"command line: --invented: {text}: rows can be half as long again, "
            f"{longest(context) + longest(answer)} tokens, "
            f"but data.max_length is {max_length}; set --data.max_length={longest(context) + longest(answer)}"
        )
    return Invention(context, answer, *rows)


def longest(mean: int) -> int:
    return mean + mean // 2


def invented_data(tasks: Sequence[str], invention: Invention, vocabulary: int, seed: int) -> dict[str, TaskData]:
    """A training split a task, drawn from (seed, task): contexts and answers from half to one and a half times
    their mean.
    """
    return {
        task: TaskData(cast(TaskCard, None), {"train": _split(task, invention, vocabulary, seed)}) for task in tasks
    }


def _split(task: str, invention: Invention, vocabulary: int, seed: int) -> Split:
    import numpy as np  # here, as what follows: the flags of a command are read without it
    from datasets import Dataset, Features, Sequence, Value

    from engine.data.sampling import seed_of

    rng, rows = np.random.default_rng(seed_of(seed, "invented", task)), invention.rows

    def column(mean: int, least: int) -> list[list[int]]:
        return [
            rng.integers(3, vocabulary, max(least, int(rng.integers(mean // 2, longest(mean) + 1)))).tolist()
            for _ in range(rows)
        ]

    columns = {
        "context_ids": column(invention.context, 0),
        "answer_ids": column(invention.answer, 1),
        "example": ["{}"] * rows,
        "fits": [True] * rows,
    }
    features = Features(
        {
            "context_ids": Sequence(Value("int32")),
            "answer_ids": Sequence(Value("int32")),
            "example": Value("string"),
            "fits": Value("bool"),
        }
    )
    return Split(Dataset.from_dict(columns, features=features), f"invented-{task}-{invention}-{vocabulary}-{seed}")
