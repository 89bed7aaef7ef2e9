"""Killed and resumed equals uninterrupted: prompts, optimizer and log, to the bit."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from backbones import backbone_checksum
from engine.checkpoints import checkpoint
from engine.core.errors import UserError
from engine.data.dataset import TaskData
from engine.training.forward_backward import AnswerTerms, ForwardBackward
from engine.training.teach_and_distill import distill_stage, teach_stage
from engine.training.trainer import Trainer

pytestmark = pytest.mark.slow

Build = Callable[..., Trainer]


class PowerCut(Exception):
    """Stands for SIGKILL: nothing after it runs."""


@pytest.fixture
def build(make_holder, make_loop, teachers, tasks: dict[str, TaskData]) -> Build:
    """``build("teach", "name", **changes)``: a loop as a new process would make it; ``name`` is its run directory."""

    def make(kind: str, name: str, overwrite: bool = False, **changes: Any) -> Trainer:
        base = {
            "teach.eval_interval": 1,
            "teach.patience": 5,
            "teach.steps": 9,
            "distill.steps": 9,
            "distill.batch_size": 4,
            "checkpoint.interval": 4,
            **changes,
        }
        holder = make_holder(name, overwrite=overwrite, **base)
        # alpha is validated on another task: it gets worse while it learns, and its patience spans a checkpoint
        tasks_of_teachers = tasks | {
            "alpha": TaskData(None, {**tasks["alpha"].splits, "validation": tasks["gamma"].splits["validation"]})
        }  # type: ignore[arg-type]
        train_only = {n: TaskData(d.card, {"train": d.splits["train"]}) for n, d in tasks.items()}
        stage = (
            teach_stage(holder, tasks_of_teachers)
            if kind == "teach"
            else distill_stage(holder, data=train_only, teachers=teachers(3), teachers_hash="hash")
        )
        return make_loop(stage, holder)

    return make


def cut_at(trainer: Trainer, step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run until the power goes in the middle of ``step``, after some of its micro-batches."""
    whole = ForwardBackward.train
    calls = iter(range(10**6))

    def train(*args: Any, **named: Any) -> AnswerTerms:
        if trainer.step == step - 1 and next(calls) == 1:
            trainer.saver.wait()  # the checkpoint before is on disk, however slow that is
            raise PowerCut
        return whole(*args, **named)

    monkeypatch.setattr(ForwardBackward, "train", train)
    with pytest.raises(PowerCut):
        trainer.run()
    monkeypatch.setattr(ForwardBackward, "train", whole)
    assert trainer.step == step - 1


def files(trainer: Trainer) -> dict[str, dict[str, torch.Tensor]]:
    found = checkpoint.load(trainer.stage.run_dir)
    assert found is not None and not [
        n for n in load_file(trainer.stage.run_dir / "latest" / checkpoint.FILES[0]) if n.startswith("best")
    ]
    return {"prompts": found.prompts, "optimizer": found.optimizer}


def same(found: dict[str, dict[str, torch.Tensor]], wanted: dict[str, dict[str, torch.Tensor]]) -> None:
    for name, tensors in wanted.items():
        assert found[name].keys() == tensors.keys()
        for key, tensor in tensors.items():
            assert torch.equal(found[name][key], tensor), f"{name}: {key}"


@pytest.mark.parametrize("kind", ["teach", "distill"])
@pytest.mark.parametrize("cut", [3, 6, 9])  # before the first checkpoint, after one, after two
def test_killed_and_resumed_equals_uninterrupted(
    kind: str, cut: int, build: Build, metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = build(kind, "whole", max_tokens_per_micro_batch=25)
    whole.run()
    cut_at(build(kind, "cut", max_tokens_per_micro_batch=25), cut, monkeypatch)
    resumed = build(kind, "cut", max_tokens_per_micro_batch=25)
    resumed.run()
    assert resumed.step == whole.step == 9
    if kind == "teach":  # its best lies before the checkpoint at 4, its end behind it
        assert whole.best_step[0] < 4 < whole.row_steps[0] < 9 and whole.row_steps[1:] == [9, 9]
    same(files(resumed), files(whole))
    states = [json.loads((trainer.stage.run_dir / "latest/state.json").read_text()) for trainer in (resumed, whole)]
    for state in states:
        state["hashes"]["config"] = {k: v for k, v in state["hashes"]["config"].items() if k != "run_dir"}
    assert states[0] == states[1]
    found, wanted = metrics(resumed.stage.run_dir), metrics(whole.stage.run_dir)
    assert [line["step"] for line in wanted] == list(range(1, whole.step + 1))
    assert found == wanted


def test_a_log_interval_that_the_checkpoints_do_not_fall_on(
    build: Build, metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {"log.interval": 3, "checkpoint.interval": 4, "distill.steps": 8, "max_tokens_per_micro_batch": 25}
    whole = build("distill", "whole", **changes)
    whole.run()
    cut_at(build("distill", "cut", **changes), 6, monkeypatch)
    resumed = build("distill", "cut", **changes)
    resumed.run()
    assert [line["step"] for line in metrics(whole.stage.run_dir)] == [3, 6, 8]
    assert metrics(resumed.stage.run_dir) == metrics(whole.stage.run_dir)


def test_a_finished_run_is_left_as_it_is(build: Build, metrics) -> None:
    first = build("distill", "whole")
    first.run()
    before, logged = files(first), metrics(first.stage.run_dir)
    again = build("distill", "whole")
    again.run()
    assert again.step == 9
    same(files(again), before)
    assert metrics(again.stage.run_dir) == logged


def test_fresh_starts_again_and_its_own_checkpoints_count(
    build: Build, metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = build("distill", "whole", max_tokens_per_micro_batch=25)
    whole.run()
    wanted = files(whole)
    cut_at(build("distill", "whole", overwrite=True, max_tokens_per_micro_batch=25), 6, monkeypatch)
    assert (whole.stage.run_dir / "latest").resolve().name == "step_00000004"  # older ones have higher numbers
    assert [line["step"] for line in metrics(whole.stage.run_dir)] == [1, 2, 3, 4, 5]
    resumed = build("distill", "whole", max_tokens_per_micro_batch=25)
    resumed._resume()
    assert resumed.step == 4
    resumed.run()
    same(files(resumed), wanted)


@pytest.mark.parametrize(
    ("kind", "key", "value"),
    [
        ("teach", "teach.relative_lr", 0.2),
        ("teach", "seed", 1),
        ("teach", "prompt.init", "text"),
        ("distill", "distill.lambda_kl", 0.5),
        ("distill", "data.max_length", 77),
    ],
)
def test_another_configuration_is_refused_by_name(kind: str, key: str, value: Any, build: Build) -> None:
    build(kind, "run", **{"teach.steps": 4, "distill.steps": 4, "prompt.init_text": "Note:"}).run()
    other = build(kind, "run", **{"teach.steps": 4, "distill.steps": 4, "prompt.init_text": "Note:", key: value})
    with pytest.raises(UserError) as error:
        other.run()
    (problem,) = error.value.problems
    assert (
        f"config.{key}" in problem
        and repr(value) in problem
        and "--overwrite=true" in problem
        and str(other.stage.run_dir) in problem
    )


def test_changes_that_are_accepted_are_said_and_kept(build: Build, capsys: pytest.CaptureFixture[str]) -> None:
    build("distill", "run", **{"distill.steps": 4}).run()
    changed = {"distill.steps": 6, "distill.lr_task": 0.2}
    other = build("distill", "run", **changed, accept_changes=True)
    other.run()
    assert (
        other.step == 6
        and "WARNING" in (out := capsys.readouterr().out)
        and "continues, although the configuration changed: config.distill.lr_task" in out
    )
    found = checkpoint.load(other.stage.run_dir)
    assert found is not None
    assert [line.partition(": the")[0] for line in found.state["changes"]] == [
        "step 4: config.distill.lr_task",
        "step 4: config.distill.steps",
    ]
    again = build("distill", "run", **changed)  # what was accepted once is this run's
    again._resume()
    assert again.step == 6 and again.changes == found.state["changes"]


def test_no_acceptance_helps_where_the_numbers_are_others(build: Build) -> None:
    build("distill", "run", **{"distill.steps": 4}).run()
    other = build("distill", "run", **{"distill.steps": 4, "prompt.rank": 1}, accept_changes=True)
    with pytest.raises(UserError, match=r"parts.metaprompt.cols_KLR is \[\d+, \d+, 2\] there, \[\d+, \d+, 1\] here"):
        other.run()


def test_other_data_are_refused(build: Build, tasks: dict[str, TaskData]) -> None:
    build("distill", "run", **{"distill.steps": 4}).run()
    swapped = {**tasks, "alpha": tasks["beta"]}
    from engine.data.dataset import data_fingerprint

    assert data_fingerprint(tasks) != data_fingerprint(swapped)
    other = build("distill", "run", **{"distill.steps": 4})
    other.stage.hashes["data"] = data_fingerprint(swapped)
    with pytest.raises(UserError, match=r": data: the checkpoint has"):
        other.run()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("max_tokens_per_micro_batch", 500),
        ("log.interval", 2),
        ("checkpoint.keep", 1),
        ("evaluate.batch_size", 3),
        ("activation_checkpointing", "all"),
        ("batching", "plain"),
    ],
)
def test_what_decides_no_result_may_change(key: str, value: Any, build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    cut_at(build("distill", "run", max_tokens_per_micro_batch=25), 6, monkeypatch)
    resumed = build("distill", "run", **{"max_tokens_per_micro_batch": 25, key: value})
    resumed.run()
    assert resumed.step == 9


def test_teaching_and_distilling_leave_the_backbone_as_it_was(build: Build, backbone) -> None:
    before = backbone_checksum(backbone.model)
    for kind in ("teach", "distill"):
        trainer = build(kind, kind)
        start = {n: p.detach().clone() for n, p in trainer.stage.bank.named_parameters()}
        trainer.run()
        assert not any(torch.equal(p, start[n]) for n, p in trainer.stage.bank.named_parameters())
    assert backbone_checksum(backbone.model) == before
    assert all(p.grad is None and not p.requires_grad for p in backbone.model.parameters())
    with torch.no_grad():
        weight = next(iter(backbone.model.parameters()))
        weight[0, 0] += 1e-15
        assert backbone_checksum(backbone.model) != before  # a checksum that sees the smallest change
        weight[0, 0] -= 1e-15


def test_the_files_of_a_run(build: Build) -> None:
    trainer = build("distill", "run", **{"log.tensorboard": True})
    trainer.run()
    found = sorted(
        str(p.relative_to(trainer.stage.run_dir))
        for p in trainer.stage.run_dir.rglob("*")
        if not p.is_dir() and "tensorboard" not in str(p)
    )
    best = [
        f"checkpoints/reused/{checkpoint.load(trainer.stage.run_dir).state['reused']['best']}.{copy}.safetensors"
        for copy in (1, 2)
    ]  # type: ignore[union-attr]
    steps = [
        f"checkpoints/step_000000{n:02d}/{name}"
        for n in (8, 9)
        for name in ("optimizer.safetensors", "prompts.safetensors", "state.json")
    ]
    assert found == [*best, *steps, "metrics.jsonl"]
    assert (trainer.stage.run_dir / "latest").is_symlink() and len(
        list((trainer.stage.run_dir / "tensorboard").iterdir())
    ) == 1
    tensors = load_file(Path(trainer.stage.run_dir / "latest/prompts.safetensors"))
    names = ["cols_KLR", "rows_KRD", "shared_SLD"]
    assert sorted(tensors) == [f"parts.metaprompt.{n}" for n in names]


@pytest.mark.parametrize("kind", ["teach", "distill"])
def test_a_checkpoint_takes_little_more_than_three_numbers_a_trained_number(kind: str, build: Build) -> None:
    trainer = build(kind, "run")
    trainer.run()
    trained = sum(p.numel() * p.element_size() for p in trainer.stage.bank.parameters() if p.requires_grad)
    tensors = [t for name in checkpoint.FILES for t in load_file(trainer.stage.run_dir / "latest" / name).values()]
    steps_of_rows = 16 * (len(trainer.stage.rows) + 1) * len(trainer.stage.optimizer.groups)
    assert 3 * trained <= sum(t.numel() * t.element_size() for t in tensors) <= 3 * trained + steps_of_rows
