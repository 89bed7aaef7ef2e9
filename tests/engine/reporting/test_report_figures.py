"""What a report is computed from: paired comparisons, components, nearest entries, axes and marks."""

from typing import Any

import numpy as np
import pytest
import torch

from engine.evaluation.aggregate import by_seed, paired_over_targets, student, summarise, two_sided
from engine.reporting.blocks import Cell, table
from engine.reporting.comparisons import holm
from engine.reporting.figures.axes import short, ticks
from engine.reporting.figures.charts import lines
from engine.reporting.figures.marks import style_of
from engine.reporting.geometry import components, cosines, nearest
from tests.engine.reported_run import scored


def test_paired_differences_by_hand() -> None:
    """What is hard for both methods drops out: the difference of every resample is taken before its interval."""
    ramp = np.linspace(0.0, 0.4, 101)
    card: Any = {"a": type("Card", (), {"name": "a", "type": "qa", "metric": "accuracy"})}
    base = {"task": "a", "shots": "4", "best_step": 0, "n_dropped": 0, "n_truncated": 0}
    rows = [
        {
            **base,
            "method": "metaprompt",
            "seed": s,
            "scores": {"accuracy": 0.5 + s / 10},
            "replicates": {"accuracy": ramp + 0.3 + s / 10},
        }
        for s in (0, 1)
    ]
    rows += [
        {**base, "method": "lora", "seed": 0, "scores": {"accuracy": 0.45}, "replicates": {"accuracy": ramp + 0.25}}
    ]
    paired = summarise(rows, cards=card, n_test={"a": 5}, role="target")["tasks"]["a"]["paired"]
    found = paired.pop("metaprompt-lora")["4"]
    assert (
        not paired
        and found["difference"] == pytest.approx(0.1)
        and found["interval"] == pytest.approx([0.1, 0.1])
        and found["p"] == pytest.approx(2 / 102)
    )
    # other shots, no resamples, or another number of them: nothing to pair
    for change in ({"shots": "full"}, {"replicates": {}}, {"replicates": {"accuracy": ramp[:50]}}):
        assert (
            "paired"
            not in summarise([*rows[:2], {**rows[2], **change}], cards=card, n_test={"a": 5}, role="target")["tasks"][
                "a"
            ]
        )


def test_the_p_of_a_bootstrap() -> None:
    assert two_sided(np.array([0.1] * 99)) == pytest.approx(0.02)
    assert (
        two_sided(np.array([0.1] * 96 + [-0.1] * 3))
        == two_sided(-np.array([0.1] * 96 + [-0.1] * 3))
        == pytest.approx(0.08)
    )
    assert two_sided(np.zeros(10)) == 1.0 == two_sided(np.array([1.0, -1.0] * 5))


def test_p_values_corrected_for_their_number() -> None:
    """Holm's own steps: 4 x 0.01, 3 x 0.02, 2 x 0.02 but never below the one before, 1 x 0.5."""
    assert holm({"a": 0.5, "b": 0.01, "c": 0.02, "d": 0.02}) == pytest.approx(
        {"b": 0.04, "c": 0.06, "d": 0.06, "a": 0.5}
    )


def test_averages_are_paired_by_seed_over_the_targets() -> None:
    tasks = scored()["tasks"]
    ours, theirs = by_seed(tasks, "metaprompt", "4"), by_seed(tasks, "prompt_tuning", "4")
    found = paired_over_targets(tasks, "prompt_tuning", "4")
    mean, half = student([ours[s] - theirs[s] for s in (0, 1, 2)])
    assert (
        found
        and found["difference"] == mean
        and found["interval"] == [mean - half, mean + half]
        and found["seeds"] == [0, 1, 2]
    )
    assert (found["won"], found["lost"], found["tied"]) == (3, 0, 0)
    # Student's t with two degrees of freedom, and none of one value
    assert student([0.1, 0.2, 0.3]) == (pytest.approx(0.2), pytest.approx(4.303 * 0.1 / 3**0.5)) and student([0.4]) == (
        0.4,
        None,
    )
    del tasks["headqa"]["methods"]["lora"]["4"]
    assert paired_over_targets(tasks, "lora", "4") is None
    # no seed changes an instruction: it stands against each of the metaprompt's
    for task in tasks.values():
        task["methods"]["metaprompt"]["0"] = task["methods"]["metaprompt"]["4"]
    found = paired_over_targets(tasks, "instruction", "0")
    assert found and found["seeds"] == [0, 1, 2] and found["interval"]


def test_components_and_cosines_against_plain_linear_algebra() -> None:
    flat = np.random.default_rng(0).normal(size=(5, 12))
    places, shares = components(flat)
    u, s, _ = np.linalg.svd(flat - flat.mean(axis=0), full_matrices=False)
    assert np.abs(places) == pytest.approx(np.abs(u[:, :2] * s[:2])) and shares == pytest.approx(
        s[:2] ** 2 / (s**2).sum()
    )
    assert cosines(flat)[1, 3] == pytest.approx(flat[1] @ flat[3] / np.linalg.norm(flat[1]) / np.linalg.norm(flat[3]))
    assert cosines(np.zeros((2, 3))).tolist() == [[0, 0], [0, 0]]


def test_nearest_is_by_cosine_over_every_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.reporting.geometry.CHUNK", 3)
    table_VD, vectors_ND = (
        torch.randn(10, 4, generator=torch.Generator().manual_seed(1)),
        torch.randn(6, 4, generator=torch.Generator().manual_seed(2)),
    )
    every = torch.nn.functional.cosine_similarity(vectors_ND[:, None], table_VD[None], dim=2)
    ids, values = nearest(vectors_ND, table_VD)
    assert ids == every.argmax(dim=1).tolist() and values == pytest.approx(every.max(dim=1).values.tolist(), abs=1e-6)


def test_a_bar_in_a_cell_does_not_part_it() -> None:
    assert table([["a|b", "c"], [Cell("1", "2"), "line\nbreak"]]).splitlines()[0] == "| a\\|b | c          |"


def test_axes_have_round_numbers() -> None:
    assert ticks(0.42, 1.03, False) == [0.6, 0.8, 1.0] and ticks(10, high=12, log=False, most=6, whole=True) == [
        10,
        11,
        12,
    ]
    assert ticks(30, 5e6, True) == [100, 1000, 10_000, 100_000, 1_000_000] and ticks(0.9e-2, 6e-2, True) == [
        0.01,
        0.02,
        0.05,
    ]
    assert [short(v) for v in (0, 0.25, 1234567, 40_000, 0.0012)] == ["0", "0.25", "1.23M", "40k", "0.0012"]


def test_methods_look_alike_in_every_chart_and_unlike_one_another() -> None:
    names = [
        "metaprompt",
        "prompt_tuning",
        "lora",
        "multitask_prompt",
        "instruction",
        "in_context",
        "metaprompt@x",
        "metaprompt@y",
    ]
    assert style_of("lora", names) == style_of("lora", ["lora"]) and len({style_of(n, names) for n in names}) == len(
        names
    )
    assert lines("empty", []) == ""
