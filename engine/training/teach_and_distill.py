"""Stages 0 and 1 as a ``Stage`` for the loop: what is trained, on what, from where it starts. Stage 2 is in
``adapt``.
"""

from collections.abc import Sequence
from typing import Any

import torch

from engine.config import expand
from engine.data import TaskData, data_fingerprint
from engine.training.adapt import factor_generator
from engine.training.backbone_holder import BackboneHolder
from engine.training.forward_backward import LossWeights
from engine.training.rows import distill_rows, distill_sampler, teach_rows, teach_sampler, teach_sweep_rows
from engine.training.stage import Stage
from engine.training.teachers import read_adapters
from prompt_modules import DecomposedBank, JoinedBank, RowGroup, RowwiseAdamW, SoftPromptBank, identity_factors


def teach_stage(holder: BackboneHolder, data: dict[str, TaskData], rate: float | None = None) -> Stage:
    """Stage 0: one ordinary soft prompt per source task, all in one pass.

    Args:
        rate: what a sweep chose, in place of ``teach.relative_lr``.
    """
    c, t, device = holder.context.config, holder.context.config.teach, holder.backbone().device
    tasks = c.distill.tasks
    prompts_KLD = torch.stack([holder.start_prompt("teacher", task, card=data[task].card) for task in tasks])
    bank = JoinedBank({"teacher": SoftPromptBank(prompts_KLD)}, {"teacher": len(tasks)}).to(device)
    rows = teach_rows(c, data)
    further: dict[str, Any] = {}
    relative_lr = t.relative_lr
    if rate is not None:
        relative_lr = further["rate"] = rate
    if t.adapters:  # they are the teachers: a loop over rows that never train keeps them as they are
        adapters_KLD, further["adapters"] = read_adapters(
            expand(t.adapters), tasks, length=c.prompt.num_virtual_tokens, width=prompts_KLD.shape[-1]
        )
        with torch.no_grad():
            bank.parts["teacher"].prompts_KLD.copy_(adapters_KLD)  # type: ignore[operator, union-attr]
        for row in rows:
            row.train_indices, row.validation = [], None
    group = _teachers_group(holder, bank, [relative_lr])
    hashes = holder.context.hashes(["data", "prompt", "teach"], data_fingerprint(data), sources=tasks, **further)
    return Stage(
        "teach",
        holder.context.run_dir / "teachers",
        bank,
        rows,
        RowwiseAdamW({"teacher": group}),
        {"teacher": range(len(tasks))},
        teach_sampler(c, rows),
        t.steps,
        eval_interval=t.eval_interval,
        patience=t.patience,
        hashes=hashes,
    )


def teach_sweep(holder: BackboneHolder, data: dict[str, TaskData]) -> Stage:
    """Every source task's teacher at every rate of ``lr_sweep.relative_lr_teach``, all in one pass, each for
    ``teach.steps`` steps.
    """
    c, t, device = holder.context.config, holder.context.config.teach, holder.backbone().device
    rows, starts = teach_sweep_rows(c, data), []
    for task in c.distill.tasks:
        start_LD = holder.start_prompt("teacher", task, c.lr_sweep.seed, card=data[task].card)
        starts += [start_LD] * len(c.lr_sweep.relative_lr_teach)
    bank = JoinedBank({"teacher": SoftPromptBank(torch.stack(starts))}, {"teacher": len(rows)}).to(device)
    group = _teachers_group(holder, bank, [row.rate.own for row in rows])
    sections = ["data", "prompt", "teach", "lr_sweep"]
    return Stage(
        "lr_sweep",
        holder.context.run_dir / "lr_sweep",
        bank,
        rows,
        RowwiseAdamW({"teacher": group}),
        {"teacher": range(len(rows))},
        teach_sampler(c, rows),
        t.steps,
        hashes=holder.context.hashes(sections, data_fingerprint(data), sources=c.distill.tasks),
    )


def _teachers_group(holder: BackboneHolder, bank: JoinedBank, relative: Sequence[float]) -> RowGroup:
    """Teachers' optimizer group, of one rate for all rows or one for each, in multiples of the embeddings' RMS."""
    t = holder.context.config.teach
    rates = torch.tensor([holder.prompt_rate(rate) for rate in relative], dtype=torch.float64)
    prompts: Any = bank.parts["teacher"].prompts_KLD
    return RowGroup({"prompts_KLD": prompts}, rates, t.steps, t.warmup_steps, t.schedule, t.max_grad_norm)


def distill_stage(
    holder: BackboneHolder, data: dict[str, TaskData], teachers: JoinedBank | None, teachers_hash: str
) -> Stage:
    """Stage 1: the metaprompt and every source task's factors, from the frozen teachers; without teachers a
    multitask prompt.
    """
    c, s, device = holder.context.config, holder.context.config.distill, holder.backbone().device
    k = len(s.tasks)
    start_LD = holder.start_prompt("metaprompt")
    cols_KLR, rows_KRD = identity_factors(
        k,
        length=c.prompt.num_virtual_tokens,
        rank=c.prompt.rank,
        hidden=start_LD.shape[1],
        generator=factor_generator(c.seed),
    )
    part = DecomposedBank(start_LD[None], cols_KLR, rows_KRD)
    name = "multitask_prompt"
    if teachers is not None:
        name, teachers = "metaprompt", teachers.to(device)
    bank = JoinedBank({name: part}, {name: k}).to(device)
    rows = distill_rows(c, data, name)
    sampler = distill_sampler(c, rows)
    groups = _distill_groups(holder, part)
    # a task is present in a part of the steps; its own schedule counts those it is expected in
    present_K = torch.tensor([sampler.counts(step, [True] * k) for step in range(s.steps)]).gt(0).sum(0)
    groups["task"].total_steps = present_K.clamp(min=1).to(device)
    return Stage(
        "distill",
        holder.context.run_dir,
        bank,
        rows,
        RowwiseAdamW(groups),
        {"shared": None, "task": range(k)},
        sampler,
        s.steps,
        LossWeights(s.lambda_kl, s.lambda_hidden, s.temperature),
        teachers=teachers,
        hashes=holder.context.hashes(["data", "prompt", "distill"], data_fingerprint(data), teachers=teachers_hash),
    )


def _distill_groups(holder: BackboneHolder, part: DecomposedBank) -> dict[str, RowGroup]:
    """Optimizer groups of a distillation: the shared metaprompt, and every task's factors."""
    s = holder.context.config.distill
    shared: dict[str, Any] = {"shared_SLD": part.shared_SLD}
    factors: dict[str, Any] = {"cols_KLR": part.cols_KLR, "rows_KRD": part.rows_KRD}
    shared_lr = holder.prompt_rate(s.relative_lr_shared)
    return {
        "shared": RowGroup(shared, shared_lr, s.steps, s.warmup_steps, s.schedule, s.max_grad_norm),
        "task": RowGroup(factors, s.lr_task, s.steps, s.warmup_steps, s.schedule, s.max_grad_norm),
    }
