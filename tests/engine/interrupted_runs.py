"""Distillations that are asked to stop in the middle of a step: what several files of tests begin with."""

import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from engine.checkpoints import checkpoint
from engine.data.dataset import TaskData
from engine.distributed.preemption import PreemptionHandler
from engine.telemetry import startup_timer
from engine.training.forward_backward import ForwardBackward
from engine.training.teach_and_distill import distill_stage
from engine.training.trainer import Trainer


@pytest.fixture
def nothing_asked_for() -> Iterator[None]:
    yield
    startup_timer.take_stop_request()  # by the test before


@pytest.fixture
def ctrl_c_is_not_ignored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As it would be where the tests run in the background of a shell."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def build(make_holder, make_loop, teachers, tasks: dict[str, TaskData]) -> Callable[..., Trainer]:
    """A distillation's loop as a new process would make it, in a run directory of its own."""

    def make(name: str, preemption: PreemptionHandler | None = None, **changes: Any) -> Trainer:
        holder = make_holder(
            name, **{"distill.steps": 9, "distill.batch_size": 4, "checkpoint.interval": 100, **changes}
        )
        train_only = {n: TaskData(d.card, {"train": d.splits["train"]}) for n, d in tasks.items()}
        trainer = make_loop(distill_stage(holder, data=train_only, teachers=teachers(3), teachers_hash="hash"), holder)
        trainer.preemption = preemption
        return trainer

    return make


def at_step(monkeypatch: pytest.MonkeyPatch, trainer: Trainer, step: int, act: Callable[[], object]) -> None:
    """Do something in the middle of a step."""
    whole, done = ForwardBackward.train, []

    def train(*args: Any, **named: Any) -> Any:
        if trainer.step == step - 1 and not done:
            done.append(act())
        return whole(*args, **named)

    monkeypatch.setattr(ForwardBackward, "train", train)


def prompts(trainer: Trainer) -> dict[str, torch.Tensor]:
    """Copies: what is loaded is mapped from a file that a test may damage."""
    return {n: t.clone() for n, t in checkpoint.load(trainer.stage.run_dir).prompts.items()}  # type: ignore[union-attr]
