"""The sweep of learning rates: its rows, what is chosen of their scores, and what it leaves."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.config.learning_rates import Rate
from engine.data.dataset import TaskData
from engine.recipes import lr_sweep
from engine.training.adapt import Source, adapt_stage
from engine.training.rows import adapt_rows
from prompt_modules import DecomposedBank

SWEEP = {
    "adapt.methods": ["metaprompt", "prompt_tuning"],
    "adapt.shots": ["0", "2", "4", "full"],
    "adapt.seeds": [0, 1],
    "lr_sweep.metaprompt": [0.1, 0.2],
    "lr_sweep.relative_lr_prompt": [0.3, 0.6],
}


def sources() -> dict[str, Source]:
    generator = torch.Generator().manual_seed(2)
    part = DecomposedBank(*(torch.randn(*shape, generator=generator) for shape in ((1, 5, 64), (3, 5, 2), (3, 2, 64))))
    return {"metaprompt": Source(part, ["alpha", "beta", "gamma"], "hash", 0)}


def test_a_sweep_has_a_row_for_each_rate_with_a_seed_of_its_own(make_holder, tasks: dict[str, TaskData]) -> None:
    c = make_holder(**SWEEP, **{"lr_sweep.shots": ["2"]}).context.config
    swept, trained = adapt_rows(c, tasks, tuning=True), adapt_rows(c, tasks, {("metaprompt", "2"): Rate(0.2)})
    rates = {"metaprompt": (0.1, 0.2), "prompt_tuning": (0.3, 0.6)}
    assert {(r.label, r.rate.own) for r in swept} == {(f"{m}@lr={lr}", lr) for m, lrs in rates.items() for lr in lrs}
    assert (
        len(swept) == 2 * 2 * 2
        and {r.shots for r in swept} == {"2"}
        and {r.seed for r in swept} == {100}
        and not any(r.validation for r in swept)
    )
    assert {r.rate.own for r in trained if r.method == "metaprompt"} == {0.2, c.adapt.lr_task}
    assert {r.rate.own for r in trained if r.method == "prompt_tuning"} == {c.adapt.relative_lr_prompt}
    alpha = [r for r in swept if r.task == "alpha"]
    assert all(r.train_indices == alpha[0].train_indices for r in alpha)
    assert alpha[0].train_indices not in [r.train_indices for r in trained if r.task == "alpha" and r.shots == "2"]


def test_every_row_trains_at_its_own_rate(make_holder, make_loop, tasks: dict[str, TaskData], near) -> None:
    """A rate's row of the sweep is the row of a run with that rate alone."""
    data = {n: tasks[n] for n in ("alpha", "beta")}
    together = make_holder(
        "together", **SWEEP, **{"adapt.train": "all", "adapt.relative_lr_shared": 0.01, "adapt.lr_task": 0.1}
    )
    trainer = make_loop(adapt_stage(together, data, sources=sources(), tuning=True), together)
    trainer.run()
    alone = make_holder(
        "alone",
        **{**SWEEP, "lr_sweep.metaprompt": [], "lr_sweep.relative_lr_prompt": []},
        **{"adapt.train": "all", "adapt.relative_lr_shared": 0.02, "adapt.lr_task": 0.2},
    )
    alone.context.config.adapt.seeds, alone.context.config.adapt.methods = [100], ["metaprompt"]
    other = make_loop(adapt_stage(alone, data, sources()), alone)
    other.run()
    prompts = {r.name: trainer.stage.bank.prompts(torch.tensor([k]))[0] for k, r in enumerate(trainer.stage.rows)}
    names = [r.name for r in other.stage.rows if r.shots != "0"]
    assert names and trainer.stage.name == "lr_sweep" and trainer.stage.run_dir == together.context.run_dir / "lr_sweep"
    for k, row in enumerate(other.stage.rows):
        if row.shots != "0":
            task, _, shots, seed = row.name.split("/")
            near(
                prompts[f"{task}/metaprompt@lr=0.2/{shots}/{seed}"].detach(),
                other.stage.bank.prompts(torch.tensor([k]))[0].detach(),
                1e-10,
            )


def scored(
    method: str, shots: str, by_rate: dict[float, list[float]], losses: dict[float, list[float | None]] | None = None
) -> list[dict[str, Any]]:
    return [
        {"method": method, "shots": shots, "rate": rate, "score": score, "cross_entropy": loss}
        for rate, scores in by_rate.items()
        for score, loss in zip(scores, (losses or {}).get(rate, [1.0] * len(scores)), strict=True)
    ]


def test_the_best_mean_over_the_targets_is_chosen_for_each_method_and_size() -> None:
    rows = scored("a", "2", {0.1: [0.2, 0.4], 0.2: [0.9, 0.1], 0.4: [0.5, 0.5]}) + scored(
        "a", "full", {0.1: [0.6, 0.6], 0.2: [0.1, 0.1]}
    )
    found = lr_sweep.summary(rows + scored("b", "2", {0.3: [0.0, 0.0], 0.6: [0.0, 0.0]}), 2)
    assert found["a"]["2"] == {
        "rates": [0.1, 0.2, 0.4],
        "scores": [pytest.approx(0.3), 0.5, 0.5],
        "cross_entropies": [1.0] * 3,
        "best": 1,
    }
    assert found["a"]["full"]["best"] == 0 and found["b"]["2"]["best"] == 0
    with pytest.raises(AssertionError):
        lr_sweep.summary(rows, 3)


def test_rates_of_equal_score_are_told_apart_by_cross_entropy_and_a_warning_says_when_the_score_chose_nothing() -> None:
    level = {0.1: [0.5, 0.5], 0.2: [0.4, 0.6], 0.4: [0.5, 0.5]}
    found = lr_sweep.summary(scored("a", "full", level, {0.1: [1.0, 1.0], 0.2: [0.2, 0.4], 0.4: [0.5, 0.9]}), 2)
    assert (
        found["a"]["full"]["cross_entropies"] == [1.0, pytest.approx(0.3), pytest.approx(0.7)]
        and found["a"]["full"]["best"] == 1
    )
    first, warning = lr_sweep.told(found)
    assert "0.1 0.500 (1.000), 0.2 0.500 (0.300) *, 0.4 0.500 (0.700)" in first
    assert warning.startswith(
        "WARNING learning rates of a at full: all 3 have the score 0.500; 0.2 is chosen by its lower cross-entropy"
    )
    # a higher score is taken whatever its cross-entropy; a rate that diverged loses to any other of its score
    better = lr_sweep.summary(
        scored("a", "full", {0.1: [0.6, 0.6], 0.2: [0.5, 0.5]}, {0.1: [9.0, 9.0], 0.2: [0.1, 0.1]}), 2
    )
    assert better["a"]["full"]["best"] == 0 and not any("WARNING" in line for line in lr_sweep.told(better))
    diverged = lr_sweep.summary(
        scored("a", "full", {0.1: [0.5, 0.5], 0.2: [0.5, 0.5]}, {0.1: [None, 1.0], 0.2: [8.0, 8.0]}), 2
    )
    assert diverged["a"]["full"]["best"] == 1 and "0.1 0.500 (not finite)" in lr_sweep.told(diverged)[0]
    assert json.loads(json.dumps(diverged, allow_nan=False)) == diverged


def test_p_star_is_swept_with_every_rate_of_the_factors(make_holder, tasks: dict[str, TaskData]) -> None:
    holder = make_holder(
        **SWEEP, **{"lr_sweep.relative_lr_shared": [0.1, 0.3], "adapt.train": "all", "lr_sweep.shots": ["2"]}
    )
    swept = adapt_rows(holder.context.config, tasks, tuning=True)
    pairs = {(r.rate.own, r.rate.shared) for r in swept if r.method == "metaprompt"}
    assert pairs == {(0.1, 0.1), (0.1, 0.3), (0.2, 0.1), (0.2, 0.3)}
    assert {r.rate.shared for r in swept if r.method == "prompt_tuning"} == {None}
    assert {lr_sweep._rate_of(r.variant.partition("lr=")[2]) for r in swept} == {r.rate for r in swept}
    groups = adapt_stage(holder, data=tasks, sources=sources(), tuning=True).optimizer.groups
    rows = [r for r in swept if r.method == "metaprompt"]
    assert groups["metaprompt"].lr.tolist() == [r.rate.own for r in rows]  # type: ignore[union-attr]
    shared = [r.rate.shared * holder.embedding_rms for r in rows]  # type: ignore[operator]
    assert groups["metaprompt.shared"].lr.tolist() == shared  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("shots", "rate"), [("4", 1.0), ("16", 2.0), ("20", 2.0), ("100", 3.0), ("full", 4.0), ("5", 1.0)]
)
def test_sizes_that_were_not_swept_take_the_rate_of_the_nearest(shots: str, rate: float) -> None:
    by_shots = {s: {"rates": [r], "best": 0} for s, r in (("4", 1.0), ("16", 2.0), ("64", 3.0), ("full", 4.0))}
    assert lr_sweep._nearest(by_shots, shots) == Rate(rate)


def test_scores_are_kept_row_by_row_and_torn_lines_asked_again(tmp_path: Path) -> None:
    line = {
        "row": 3,
        "of": "key",
        "method": "a",
        "rate": 0.1,
        "task": "t",
        "shots": "2",
        "score": 0.5,
        "cross_entropy": 1.0,
    }
    file = tmp_path / "scores.jsonl"
    file.write_text(
        "".join(
            [
                json.dumps(line) + "\n",
                json.dumps({**line, "row": 4, "of": "another"}) + "\n",
                json.dumps({**line, "row": 5})[:-9],
            ]
        )
    )
    assert lr_sweep._read(file, "key") == {"3": line}
    assert lr_sweep._read(tmp_path / "none", "key") == {}


def test_tuning_seed_and_shots_are_checked(make_holder) -> None:
    from engine.config.validation import problems

    config = make_holder(
        **SWEEP, **{"lr_sweep.seed": 1, "lr_sweep.shots": ["0", "x"], "lr_sweep.lora": [0.0]}
    ).context.config
    told = " ".join(problems(config))
    for wanted in (
        "lr_sweep.seed: 1 must not be in adapt.seeds",
        "lr_sweep.shots: 0 trains nothing",
        "lr_sweep.shots: must be full or a number; got 'x'",
        "lr_sweep.lora: must be > 0; got 0.0",
    ):
        assert wanted in told
    assert config.lr_sweep.any()
    config = make_holder(
        **SWEEP,
        **{"lr_sweep.relative_lr_shared": [0.1], "lr_sweep.relative_lr_teach": [0.1], "teach.run": "runs/other"},
    ).context.config
    told = " ".join(problems(config))
    assert (
        "lr_sweep.relative_lr_shared: needs adapt.train: all" in told
        and "lr_sweep.relative_lr_teach: the teachers are given" in told
    )
