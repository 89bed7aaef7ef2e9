"""How samples are cut to files of teachers' states, and files to micro-batches."""

import numpy as np
import pytest

from engine.training.teachers import parts as teacher_parts
from engine.training.teachers.parts import assign_blocks, cut_files, placeholder_sample, plan_blocks


def test_a_file_ends_with_its_answer_tokens_or_its_samples(monkeypatch) -> None:
    monkeypatch.setattr(teacher_parts, "ANSWERS", 10)
    monkeypatch.setattr(teacher_parts, "SAMPLES", 3)
    assert cut_files([]) == []
    assert cut_files([4, 4, 4, 4]) == [0, 2]  # 8, 8
    assert cut_files([1, 1, 1, 1]) == [0, 3]
    assert cut_files([2, 30, 2, 9]) == [0, 1, 2, 3]  # one that is longer has its own


def files(sizes: list[tuple[int, int]], seed: int = 0):
    """Items of files: (row, samples) of each."""
    rng, out, next_of = np.random.default_rng(seed), [], {}
    for row, n in sizes:
        begin = next_of.get(row, 0)
        out.append(
            [
                placeholder_sample(
                    row, index=begin + i, context=int(rng.integers(5, 30)), answer=int(rng.integers(1, 6))
                )
                for i in range(n)
            ]
        )
        next_of[row] = begin + n
    return out


def tokens(group, length: int) -> int:
    return sum(len(sample) for sample in group) + length * len({sample.row for sample in group})


SIZES = [(0, 30), (0, 30), (0, 2), (1, 3), (2, 4), (2, 1), (3, 200), (4, 2)]


def test_micro_batches_hold_what_the_budget_allows(monkeypatch) -> None:
    monkeypatch.setattr(teacher_parts, "JOINED", 1)
    parts = files(SIZES)
    found = plan_blocks(parts, wanted=range(len(parts)), prompt_length=8, max_tokens_per_micro_batch=600)
    for block in found:
        total = sum(tokens(g, 8) for g in block.groups)
        assert all(tokens(g, 8) <= 600 for g in block.groups) and len(block.groups) <= -(-total // 600) + 1
    assert [b.parts for b in found if len(b.parts) > 1] == [[2, 3, 4, 5]]  # small tasks share a forward pass
    samples = [(i.row, i.index) for b in found for g in b.groups for i in g]
    assert sorted(samples) == sorted((i.row, i.index) for part in parts for i in part)


def test_small_files_share_micro_batches() -> None:
    parts = files([(k, 20) for k in range(10)])
    total = sum(tokens(part, 8) for part in parts)
    found = plan_blocks(parts, wanted=range(10), prompt_length=8, max_tokens_per_micro_batch=600)
    passes = sum(len(b.groups) for b in found)
    assert [b.parts for b in found] == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]
    assert total > 6 * 600 and passes == 8  # two are not full


@pytest.mark.parametrize("number", range(len(SIZES)))
def test_what_computes_a_file_does_not_depend_on_what_else_is_missing(number) -> None:
    parts = files(SIZES)
    together = next(
        b
        for b in plan_blocks(parts, wanted=range(len(parts)), prompt_length=8, max_tokens_per_micro_batch=600)
        if number in b.parts
    )
    (alone,) = plan_blocks(parts, wanted=[number], prompt_length=8, max_tokens_per_micro_batch=600)
    assert alone.parts == [number] and alone.groups == together.groups


@pytest.mark.parametrize("world", [1, 2, 3, 16])
def test_ranks_get_all_blocks_once_and_like_numbers_of_micro_batches(world) -> None:
    dealt = plan_blocks(files(SIZES), wanted=range(len(SIZES)), prompt_length=8, max_tokens_per_micro_batch=600)
    shares = assign_blocks(dealt, world)
    assert len(shares) == world
    assert sorted(b.parts for share in shares for b in share) == sorted(b.parts for b in dealt)
    loads = [sum(len(b.groups) for b in share) for share in shares]
    assert max(loads) - min(loads) <= max(len(b.groups) for b in dealt)
