"""Distillations whose teachers lie on disk: what several files of tests begin with."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from engine.training.teach_and_distill import distill_stage
from engine.training.teachers import parts as teacher_parts
from engine.training.teachers.cache_setup import cache_teachers
from engine.training.trainer import Trainer


@pytest.fixture
def cached(
    make_holder, make_loop, teachers, tasks, tmp_path, monkeypatch
) -> Iterator[Callable[..., tuple[Trainer, list[str]]]]:
    """``cached(**{"distill.teacher_cache": "off"})``: a distillation's loop, and what was said of its cache."""
    monkeypatch.setattr(teacher_parts, "SAMPLES", 4)

    def make(**changes) -> tuple[Trainer, list[str]]:
        holder = make_holder(
            **{"distill.temperature": 2.0, "distill.steps": 12, "data.cache": str(tmp_path / "cache"), **changes}
        )
        taught = teachers(3).double()
        stage = distill_stage(holder, data=tasks, teachers=taught, teachers_hash="hash")
        trainer = make_loop(stage, holder)
        loops.append(trainer)
        said: list[str] = []
        holder.context.print_rank0 = said.append
        cache_teachers(holder, stage, taught)
        return trainer, said

    loops: list[Trainer] = []
    yield make
    for trainer in loops:
        trainer.close()


def files(folder: Path) -> dict[Path, int]:
    return {f: f.stat().st_mtime_ns for f in folder.rglob("*.safetensors")}


def gradients(trainer: Trainer, steps: int = 5) -> list[dict[str, torch.Tensor]]:
    out = []
    for step in range(steps):
        trainer.gradients(step)
        out.append({n: p.grad.clone() for n, p in trainer.stage.bank.named_parameters()})
        trainer.stage.bank.zero_grad()
    return out


def trained(trainer: Trainer) -> dict[str, torch.Tensor]:
    trainer.stage.teachers = None  # nobody is asked as it trains
    trainer.run()
    return {name: parameter.detach().clone() for name, parameter in trainer.stage.bank.named_parameters()}


def cut(file: Path, length: int) -> None:
    file.write_bytes(file.read_bytes()[:length])
