"""Invented token rows in place of corpora: to measure a machine, nobody needs data. Their scores mean nothing."""

from collections.abc import Sequence
from typing import cast

import numpy as np

from clinical_tasks import TaskCard
from engine.data import Split, TaskData
from engine.errors import UserError
from engine.sampling import seed_of

ROWS = 512  # of a task: read again once they are through, as a small corpus is


def sizes_of(text: str, max_length: int) -> tuple[int, int]:
    """``CONTEXT,ANSWER``: mean tokens of a row's context and of its answer.

    Raises:
        UserError: no two whole numbers, or rows would be longer than ``max_length``.
    """
    parts = [p.strip() for p in text.split(",")]
    if len(parts) != 2 or not all(p.isdecimal() for p in parts) or int(parts[1]) < 1:
        raise UserError(f"command line: --invented: {text!r} is no CONTEXT,ANSWER: two whole numbers, mean tokens of a row's context and of its answer (200,20)")
    context, answer = map(int, parts)
    if longest(context) + longest(answer) > max_length:
        raise UserError(f"command line: --invented: {text}: rows are up to half as long again, {longest(context) + longest(answer)} tokens, "
                        f"and data.max_length is {max_length}; set --data.max_length={longest(context) + longest(answer)}")  # fmt: skip
    return context, answer


def longest(mean: int) -> int:
    return mean + mean // 2


def invented_data(tasks: Sequence[str], context: int, answer: int, vocabulary: int, seed: int, rows: int = ROWS) -> dict[str, TaskData]:
    """A training split of ``rows`` rows a task, drawn from (seed, task): contexts and answers from half to one and a half times their mean."""
    return {task: TaskData(cast(TaskCard, None), {"train": _split(task, context, answer, vocabulary, seed, rows)}) for task in tasks}


def _split(task: str, context: int, answer: int, vocabulary: int, seed: int, rows: int) -> Split:
    from datasets import Dataset, Features, Sequence, Value

    rng = np.random.default_rng(seed_of(seed, "invented", task))

    def column(mean: int, least: int) -> list[list[int]]:
        return [rng.integers(3, vocabulary, max(least, int(rng.integers(mean // 2, longest(mean) + 1)))).tolist() for _ in range(rows)]

    columns = {"context_ids": column(context, 0), "answer_ids": column(answer, 1), "example": ["{}"] * rows, "kept": [True] * rows}
    features = Features({"context_ids": Sequence(Value("int32")), "answer_ids": Sequence(Value("int32")), "example": Value("string"), "kept": Value("bool")})
    return Split(Dataset.from_dict(columns, features=features), f"invented-{task}-{context}-{answer}-{vocabulary}-{seed}-{rows}")
