"""A task whose training answers are all alike is named, with their number and without their text."""

from typing import Any

import pytest
from datasets import Dataset

from engine.data.dataset import Split, TaskData
from engine.data.equal_answers import warn_of_equal_answers

ANSWER = [517, 23, 9]


def warned(answers: list[list[int]], fits: list[bool] | None = None, rank: int = 0) -> list[str]:
    rows = Dataset.from_dict({"answer_ids": answers, "fits": fits or [True] * len(answers)})
    card: Any = None
    lines: list[str] = []
    warn_of_equal_answers({"alpha": TaskData(card, {"train": Split(rows)})}, rank, lines.append)
    return lines


def test_the_task_and_the_number_of_samples_are_named_and_never_the_answer() -> None:
    (line,) = warned([ANSWER] * 300)
    assert line.startswith("WARNING alpha: all 300 training samples have the same answer")
    assert not any(str(number) in line for number in ANSWER)


@pytest.mark.parametrize(
    "answers",
    [[*[ANSWER] * 299, [517, 23]], [ANSWER, [517, 23, 8]], [ANSWER]],
    ids=["one of 300 differs", "a token differs", "one sample is no corpus"],
)
def test_answers_that_differ_are_not_warned_about(answers: list[list[int]]) -> None:
    assert warned(answers) == []


def test_rows_that_are_too_long_to_be_samples_do_not_count() -> None:
    (line,) = warned([ANSWER, [1], ANSWER], [True, False, True])
    assert "all 2 training samples" in line


def test_one_rank_speaks_for_all() -> None:
    assert warned([ANSWER] * 3, rank=1) == []
