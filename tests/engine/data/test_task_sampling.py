"""Which examples a step trains on: pure functions of seeds and counters."""

from collections import Counter

import numpy as np
import pytest

from engine.data.sampling import EveryRow, Stream, TaskMixture, few_shot_order, plan_step, seed_of

EVERYONE = [True] * 5


def test_a_stream_is_a_pure_function_of_seed_and_position() -> None:
    forward = [Stream(range(100, 117), 3).at(i) for i in range(60)]
    stream = Stream(range(100, 117), 3)
    order = np.random.default_rng(0).permutation(60)
    jumping = {int(i): stream.at(int(i)) for i in order}
    assert [jumping[i] for i in range(60)] == forward
    assert [Stream(range(100, 117), 4).at(i) for i in range(60)] != forward


def test_every_epoch_is_another_permutation() -> None:
    stream = Stream([5, 8, 13, 21, 34, 55, 89], 1)
    epochs = [[stream.at(e * 7 + i) for i in range(7)] for e in range(20)]
    assert all(sorted(epoch) == [5, 8, 13, 21, 34, 55, 89] for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 20 and len(stream) == 7


def test_every_row_gets_its_examples_unless_it_rests() -> None:
    assert EveryRow(3, 8).counts(5, [True, False, True]) == [8, 0, 8]


@pytest.mark.parametrize("how", ["uniform", "proportional", "capped"])
@pytest.mark.parametrize("subsets", [True, False])
def test_counts_sum_to_the_batch_and_depend_on_seed_and_step_alone(how: str, subsets: bool) -> None:
    def counts(seed: int) -> list[list[int]]:
        mixture = TaskMixture([10, 500, 40, 90, 3], batch=13, how=how, cap=50, subsets=subsets, seed=seed)
        return [mixture.counts(step, EVERYONE) for step in range(50)]

    once = counts(1)
    assert all(sum(c) == 13 and min(c) >= 0 for c in once)
    assert once == counts(1) != counts(2)
    backwards = TaskMixture([10, 500, 40, 90, 3], batch=13, how=how, cap=50, subsets=subsets, seed=1)
    assert [backwards.counts(step, EVERYONE) for step in reversed(range(50))] == once[::-1]
    assert len({tuple(c) for c in once}) > 20


@pytest.mark.parametrize(
    ("how", "cap", "weights"),
    [("uniform", 0, [1, 1, 1, 1, 1]), ("proportional", 0, [10, 500, 40, 90, 3]), ("capped", 50, [10, 50, 40, 50, 3])],
)
def test_tasks_are_drawn_by_weight(how: str, cap: int, weights: list[int]) -> None:
    mixture = TaskMixture([10, 500, 40, 90, 3], batch=1000, how=how, cap=cap, subsets=False, seed=0)
    drawn = np.sum([mixture.counts(step, EVERYONE) for step in range(200)], 0) / 200_000
    share = np.array(weights) / sum(weights)
    assert np.abs(drawn - share).max() < 5 * np.sqrt(0.25 / 200_000)


def test_subsets_hold_from_two_to_all_tasks_equally_often() -> None:
    mixture = TaskMixture(
        [10] * 5, batch=2000, how="uniform", cap=0, subsets=True, seed=0
    )  # so large a batch that no drawn task stays empty
    steps = [mixture.counts(step, EVERYONE) for step in range(2000)]
    numbers = Counter(sum(c > 0 for c in counts) for counts in steps)
    assert sorted(numbers) == [2, 3, 4, 5] and all(400 < n < 600 for n in numbers.values())
    present = np.sum([[c > 0 for c in counts] for counts in steps], 0)
    assert np.abs(present / 2000 - 0.7).max() < 0.06  # a mean of 3.5 tasks out of 5, no task favoured
    assert all(
        sum(
            c > 0
            for c in TaskMixture([10] * 5, batch=2000, how="uniform", cap=0, subsets=False, seed=0).counts(s, EVERYONE)
        )
        == 5
        for s in range(50)
    )


def test_two_tasks_are_always_both_in_the_subset() -> None:
    mixture = TaskMixture([10, 10], batch=1000, how="uniform", cap=0, subsets=True, seed=0)
    assert all(min(mixture.counts(step, [True, True])) > 0 for step in range(50))
    assert TaskMixture([10], batch=7, how="uniform", cap=0, subsets=True, seed=0).counts(0, [True]) == [7]


@pytest.mark.parametrize("subsets", [True, False])
def test_a_resting_task_is_never_drawn(subsets: bool) -> None:
    mixture = TaskMixture([10] * 4, batch=9, how="uniform", cap=0, subsets=subsets, seed=0)
    for step in range(100):
        counts = mixture.counts(step, [False, True, False, False])
        assert counts == [0, 9, 0, 0]


def test_a_plan_reads_each_rows_stream_on_from_its_own_cursor() -> None:
    streams = [Stream(range(10), 1), None, Stream(range(20), 2)]
    cursors = [0, 0, 4]
    picks = plan_step([2, 3, 1], streams, cursors) + plan_step([1, 0, 2], streams, cursors)
    assert cursors == [3, 0, 7]
    assert [index for row, index in picks if row == 0] == [streams[0].at(i) for i in range(3)]
    assert [index for row, index in picks if row == 2] == [streams[2].at(i) for i in range(4, 7)]
    assert {row for row, _ in picks} == {0, 2} and picks[0] == (0, streams[0].at(0))


def test_a_rows_examples_do_not_depend_on_the_other_rows() -> None:
    def seen(sizes: list[int], counts: list[list[int]]) -> list[int]:
        streams, cursors = [Stream(range(n), seed_of(0, "order", k)) for k, n in enumerate(sizes)], [0] * len(sizes)
        return [index for c in counts for row, index in plan_step(c, streams, cursors) if row == 0]

    alone = seen([12], [[3]] * 8)
    assert seen([12, 5, 700], [[3, 2, 9]] * 8) == alone
    assert seen([12, 5], [[3, 0], [0, 4]] * 8) == alone  # steps without it do not move its cursor
    assert seen([12], [[1]] * 24) == alone


def test_seeds_come_from_names() -> None:
    seeds = [seed_of(s, "order", name) for s in range(10) for name in ("alpha", "beta")] + [
        seed_of(0, "shots", "alpha")
    ]
    assert len(set(seeds)) == 21 and all(0 <= s < 2**63 for s in seeds)
    assert (
        seed_of(0, "order", "alpha") == seeds[0] == 1369492720489093374
    )  # of every release: runs must stay repeatable


def test_few_shot_sets_are_stratified_and_nested() -> None:
    labels = ["yes"] * 110 + ["no"] * 68 + ["maybe"] * 22

    def ordered(seed: int) -> list[int]:
        return few_shot_order(labels, np.random.default_rng(seed).permutation(200).tolist())

    order = ordered(5)
    assert sorted(order) == list(range(200)) and order == ordered(5) and order[:16] != ordered(6)[:16]
    assert [labels[i] for i in order[:3]] == ["yes", "no", "maybe"]
    for shots in (16, 32, 50, 100):
        counts = Counter(labels[i] for i in order[:shots])
        assert all(
            abs(counts[label] - shots * share) <= 1.5 for label, share in (("yes", 0.55), ("no", 0.34), ("maybe", 0.11))
        ), (shots, counts)
    assert len({ordered(seed)[0] for seed in range(40)}) > 20, (
        "a label's first example is drawn, not its first in the file"
    )


def test_few_shot_sets_without_labels_are_drawn_plainly() -> None:
    assert few_shot_order(None, [2, 0, 1]) == [2, 0, 1] and few_shot_order([], []) == []
