"""A global step cut into micro-batches, and a micro-batch as tensors."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from engine.data.packing import collate, micro_batches, pack, packed_micro_batches
from engine.data.sample import Sample, weight_answer_tokens


def samples(n: int, seed: int = 0) -> list[Sample]:
    rng = np.random.default_rng(seed)
    return [
        Sample(rng.integers(3, 99, rng.integers(0, 30)).tolist(), rng.integers(3, 99, rng.integers(1, 8)).tolist())
        for _ in range(n)
    ]


def step(n: int = 23, seed: int = 0) -> list[Sample]:
    rows = np.random.default_rng(seed).integers(0, 4, n).tolist()
    return weight_answer_tokens([replace(s, row=row) for s, row in zip(samples(n, seed), rows, strict=True)])


def test_the_weights_of_a_tasks_answer_tokens_sum_to_one() -> None:
    totals: dict[int, float] = {}
    for sample in step():
        totals[sample.row] = totals.get(sample.row, 0) + sample.weight * len(sample.answer_ids)
    assert sorted(totals) == [0, 1, 2, 3] and list(totals.values()) == pytest.approx([1] * 4, rel=1e-14)
    one = weight_answer_tokens([Sample([1], [2, 3, 4]), Sample([1], [2])])
    assert [i.weight for i in one] == [0.25, 0.25]  # per token, not per sample


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("budget", [1, 40, 100, 10**6])
@pytest.mark.parametrize("n", [1, 7, 23])
@pytest.mark.parametrize("cut", [micro_batches, packed_micro_batches])
def test_every_sample_is_in_exactly_one_micro_batch(cut, n: int, budget: int, world: int) -> None:
    samples = step(n)
    ranks = [cut(samples, 5, budget, rank, world) for rank in range(world)]
    assert len({len(groups) for groups in ranks}) == 1 and ranks[0]  # equally many on every rank
    placed = [sample for groups in ranks for group in groups for sample in group]
    real = [sample for sample in placed if sample.weight]
    assert Counter(map(id, real)) == Counter(map(id, samples))
    fillers = [sample for sample in placed if not sample.weight]
    assert len(fillers) < world
    shortest = min(len(sample) for sample in samples)
    assert all(len(f) == shortest and 0 <= f.row < 4 for f in fillers)
    for groups in ranks:
        for group in groups:
            if cut is packed_micro_batches:  # each prompt once, no padding
                computed = 5 * len({sample.row for sample in group}) + sum(len(sample) for sample in group)
            else:  # prompts and padding counted
                computed = len(group) * (5 + max(len(sample) for sample in group))
            assert computed <= budget or len(group) == 1


def test_the_budget_is_used() -> None:
    samples = step(40)
    groups = micro_batches(samples, 5, 200, 0, 1)
    for group, following in zip(groups, groups[1:], strict=False):
        assert (len(group) + 1) * (5 + max(len(sample) for sample in group)) > 200, "the next sample would have fitted"
        assert len(following[0]) <= len(group[-1])  # alike lengths together
    assert len(micro_batches(samples, 5, 10**6, 0, 1)) == 1 and len(micro_batches(samples, 5, 1, 0, 1)) == 40


@pytest.mark.parametrize("cut", [micro_batches, packed_micro_batches])
def test_the_cut_depends_on_the_step_alone(cut) -> None:
    first, second = (cut(step(), 5, 100, 1, 2) for _ in range(2))
    assert first == second


@pytest.mark.parametrize("world", [1, 2, 4])
@pytest.mark.parametrize("budget", [150, 400, 10**6])
def test_packed_rows_repeat_few_prompts_and_share_the_work(world: int, budget: int) -> None:
    samples = step(60)
    groups = [
        g
        for rank in range(world)
        for g in packed_micro_batches(
            samples, prompt_length=5, max_tokens_per_micro_batch=budget, rank=rank, world=world
        )
    ]
    tokens = [5 * len({sample.row for sample in g}) + sum(len(sample) for sample in g) for g in groups]
    least = 5 * 4 + sum(len(sample) for sample in samples)
    # a prompt is repeated only where its samples go over from one row to the next
    assert sum(len({sample.row for sample in g}) for g in groups) <= 4 + len(groups) - 1
    assert (
        len(groups) <= world * -(-least // (world * (budget - 45))) + world
    )  # 45: a longest sample and its prompt may not fit any more
    assert max(tokens) - min(tokens) <= 2 * 45 or len(groups) > -(-least // budget)


def test_a_packed_row_holds_each_prompt_once_and_each_answer_where_it_stands() -> None:
    samples = [
        Sample([11, 12, 13], [21, 22], row=3, weight=0.5),
        Sample([], [23, 24, 25], row=0, weight=0.25),
        Sample([14], [26], row=3, weight=0.0),
    ]
    batch = pack(samples, 4)
    assert batch.ids_T.tolist() == [11, 12, 13, 21, 22, 23, 24, 25, 14, 26]
    assert batch.rows_K.tolist() == [3, 0] and batch.labels_N.tolist() == [21, 22, 23, 24, 25, 26]
    # the row: prompt of 3 at 0-3, of 0 at 4-7, texts from 8; the empty context's first answer token follows its
    # prompt's last
    assert batch.before_N.tolist() == [10, 11, 7, 13, 14, 16]
    assert batch.row_N.tolist() == [3, 3, 0, 0, 0, 3]
    assert batch.weights_N.tolist() == [0.5, 0.5, 0.25, 0.25, 0.25, 0.0] and batch.weights_N.dtype == torch.float64
    assert batch.prefix.positions_S.tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 4, 5, 6, 7, 8, 4, 5, 6, 4, 5]


def test_a_batch_holds_each_answer_where_it_stands() -> None:
    samples = [
        Sample([11, 12, 13], [21, 22], row=3, weight=0.5),
        Sample([], [23, 24, 25], row=0, weight=0.25),
        Sample([14], [26], row=3, weight=0.0),
    ]
    batch = collate(samples)
    assert batch.ids_BT.tolist() == [[11, 12, 13, 21, 22], [23, 24, 25, 0, 0], [14, 26, 0, 0, 0]]
    assert batch.answer_BT.int().tolist() == [[0, 0, 0, 1, 1], [1, 1, 1, 0, 0], [0, 1, 0, 0, 0]]
    assert batch.labels_N.tolist() == [21, 22, 23, 24, 25, 26]
    assert batch.sample_N.tolist() == [0, 0, 1, 1, 1, 2]
    assert batch.rows_B.tolist() == [3, 0, 3] and batch.weights_B.tolist() == [0.5, 0.25, 0.0]
    assert batch.weights_B.dtype == torch.float64 and batch.ids_BT.dtype == torch.int64


def test_an_answer_without_context_is_predicted_from_the_prompt(backbone, naive_losses) -> None:
    """[P ; answer]: the last prompt position predicts the first answer token. Beside a longer sample, so with
    padding.
    """
    from prompt_modules import cross_entropy

    empty, longer = Sample([], [23, 24]), Sample([31, 32, 33, 34], [35, 36, 37])
    prompts_BLD = 0.1 * torch.randn(2, 5, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    batch = collate([empty, replace(longer, row=1)])
    with torch.no_grad():
        states, teacher = backbone.forward_padded(batch, prompts_BLD)
        wanted = [
            t
            for sample, prompt_LD in zip((empty, longer), prompts_BLD, strict=True)
            for t in naive_losses(sample, prompt_LD)["ce"]
        ]
    torch.testing.assert_close(cross_entropy(states.logits_NV, batch.labels_N), torch.stack(wanted), rtol=1e-12, atol=0)
    assert teacher is None
