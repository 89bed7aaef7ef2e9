"""A training step of each method of a comparison: PEFT's, our plain formulation's, our packed rows'."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from backbones.layers import unfused
from benchmarks.common.workload import WEIGHTS, Shape, Workload, operations
from engine.benchmarking import PeftTrainer
from engine.data import padded_groups
from engine.training import ForwardBackward, LossWeights, TaughtRow, TeacherCache, TeacherCacheReader

METHODS = ("peft", "plain", "packed")
Step = Callable[[], float]


@dataclass(frozen=True)
class Case:
    """One comparison. ``name``: of the shape in SHAPES, of which ``shape`` may differ in samples, tasks and layers."""

    name: str
    shape: Shape
    regime: str
    stage: str
    budget: int
    cache: bool

    @property
    def layers(self) -> int:
        return int(self.shape.card["num_hidden_layers"])

    @property
    def keeps_teacher(self) -> bool:
        return self.cache and self.stage == "distill"


def changed(shape: Shape, samples: int | None, tasks: int | None, layers: int | None) -> Shape:
    """The shape with these in place of its own, where they are given.

    Raises:
        ValueError: one is below 1; there are fewer samples than tasks.
    """
    for flag, value in (("--samples", samples), ("--tasks", tasks), ("--layers", layers)):
        if value is not None and value < 1:
            raise ValueError(f"{flag}: must be >= 1; got {value}")
    out = replace(shape, samples=samples or shape.samples, tasks=tasks or shape.tasks)
    if layers:
        out = replace(out, card={**shape.card, "num_hidden_layers": layers})
    if out.samples < out.tasks:
        few = f"{out.samples} samples for {out.tasks} tasks"
        raise ValueError(f"{few}: each task needs one; set --samples {out.tasks} or more")
    return out


def peft_step(work: Workload, stage: str, budget: int) -> Step:
    """Forward and backward of a step with PEFT; the mean loss of its batches."""
    model, tasks = work.backbone.model, work.shape.tasks
    if stage == "distill":
        trainer = PeftTrainer(model, work.start_LD, tasks, weights=WEIGHTS, teachers=work.teachers)
    else:
        trainer = PeftTrainer(model, work.start_LD, tasks, weights=None, teachers=None)
    batches = trainer.batches(work.samples, budget)
    return lambda: trainer.gradients(batches)


def our_step(work: Workload, stage: str, budget: int, packed: bool, cache: bool, folder: Path) -> Step:
    forward_backward = ForwardBackward(work.backbone, packed, budget, 0, 1)
    bank = work.student(stage)
    weights, teachers, kept = LossWeights(), None, None
    if stage == "distill":
        weights, teachers = WEIGHTS, work.teachers
    if packed and cache and stage == "distill":
        rows = []
        for k, split in enumerate(work.splits):
            stands_for: Any = split
            rows.append(TaughtRow(f"task{k}", work.teachers.prompts_KLD[k], stands_for, split.sample_indices))
        hidden, size = work.shape.card["hidden_size"], getattr(torch, work.shape.dtype).itemsize
        store = TeacherCache(rows, folder, decided_by=f"{work.shape}", temperature=1.0, hidden=hidden, itemsize=size)
        store.fill(list(range(len(store.parts))), forward_backward, work.teachers, print)
        kept = TeacherCacheReader(store, work.device)

    def step() -> float:
        bank.zero_grad()
        total = 0.0
        for group in forward_backward.micro_batches(work.samples, bank):
            terms = forward_backward.train(group, bank, weights, teachers, cached=kept)
            each = terms.ce_N + weights.kl * terms.kl_N + weights.hidden * terms.hidden_N
            total += float((each.double() * terms.weights_N).sum())
        return total / work.shape.tasks

    return step


def build(method: str, work: Workload, case: Case, folder: Path) -> Step:
    if method == "peft":
        return peft_step(work, case.stage, case.budget)
    return our_step(work, case.stage, case.budget, packed=method == "packed", cache=case.cache, folder=folder)


def operators_of(method: str, work: Workload) -> contextlib.AbstractContextManager[None]:
    """Within, the model has the operators that the method's users have: PEFT's those of transformers."""
    return unfused(work.backbone.model) if method == "peft" else contextlib.nullcontext()


def bounds(work: Workload, stage: str, budget: int) -> dict[str, float]:
    """Operations of a step by method, and with the teacher cached."""
    shape = work.shape
    batches = padded_groups(work.samples, prompt_length=shape.length, max_tokens_per_micro_batch=budget, world=1)
    wide, rows = [], 0
    for group in batches:
        longest = max(len(sample) for sample in group)
        wide.append([longest] * len(group))
        rows += (longest + shape.length) * len(group)
    whole = ForwardBackward(work.backbone, True, budget, 0, 1).micro_batches(work.samples, work.teachers)
    tight, prompts = [], 0
    for group in whole:
        tight.append([len(sample) for sample in group])
        prompts += len({sample.row for sample in group})
    per_row = replace(shape, tasks=round(prompts / len(whole)))
    passes = 3.0 if stage == "distill" else 2.0
    return {
        "peft": operations(shape, wide, False, rows, passes, passes),
        "plain": operations(shape, wide, False, work.answer_tokens, passes, passes),
        "packed": operations(per_row, tight, True, work.answer_tokens, passes, passes),
        "packed, teacher cached": operations(per_row, tight, True, work.answer_tokens, 2, 2),
    }
