"""A warning where a task has nothing to learn: every training sample has the same answer."""

from collections.abc import Callable, Mapping

from engine.data.dataset import Split, TaskData


def warn_of_equal_answers(data: Mapping[str, TaskData], rank: int, print_rank0: Callable[[str], None]) -> None:
    """Name each task whose training samples all have one answer, and their number. Never the answer: it may be of a
    note.
    """
    if rank:
        return
    for name, task in data.items():
        split = task.splits["train"]
        count = len(split.sample_indices)
        if count > 1 and _all_equal(split):
            print_rank0(
                f"WARNING {name}: all {count} training samples have the same answer; there is nothing to learn from "
                "them. Check the corpus, the card and data.max_train"
            )


def _all_equal(split: Split) -> bool:
    """Whether the samples' answers are equal, token by token. Reads as far as the first that differs."""
    samples, place = set(split.sample_indices), 0
    first: list[int] | None = None
    for batch in split.rows.select_columns(["answer_ids"]).iter(256):
        for answer in batch["answer_ids"]:
            if place in samples:
                if first is None:
                    first = answer
                elif answer != first:
                    return False
            place += 1
    return True
