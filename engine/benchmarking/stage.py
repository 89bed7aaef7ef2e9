"""The stage that a benchmark runs: the very one of a run, on invented rows or the run's own, and started from
prompts that nobody trained.
"""

from dataclasses import replace
from pathlib import Path

import torch

from engine.config import DECOMPOSED
from engine.data import Invention, TaskData, invented_data
from engine.training import (
    BackboneHolder,
    Source,
    Stage,
    adapt_rows,
    adapt_stage,
    cache_teachers,
    distill_stage,
    factor_generator,
    teach_stage,
)
from prompt_modules import DecomposedBank, JoinedBank, SoftPromptBank, identity_factors


def data_of(holder: BackboneHolder, mode: str, invented: Invention | None) -> dict[str, TaskData]:
    """Training splits; before the process group starts."""
    c = holder.context.config
    tasks = c.adapt.targets if mode == "adapt" else c.distill.tasks
    if invented is not None:
        rows = invented.rows
        if mode == "adapt":
            rows = max([rows, *(int(s) for s in c.adapt.shots if s != "full")])
        vocabulary = min(holder.context.tokenizer.vocab_size, holder.context.model_config.vocab_size)
        return invented_data(tasks, invention=replace(invented, rows=rows), vocabulary=vocabulary, seed=c.seed)
    data = holder.context.data(dict.fromkeys(tasks, ["train"]))
    if mode == "adapt":
        adapt_rows(c, data)  # its errors before the process group starts
    return data


def stage_of(holder: BackboneHolder, mode: str, data: dict[str, TaskData], steps: int, cache: Path) -> Stage:
    """A stage, ready for a loop. A collective.

    Args:
        steps: how many will be run. cache: where a distillation keeps what its teachers say, if it does
            (``distill.teacher_cache``).
    """
    c = holder.context.config
    if mode == "teach":
        return teach_stage(holder, data)
    if mode == "adapt":
        sources: dict[str, Source] = {}
        for method in c.adapt.methods:
            if method in DECOMPOSED:
                sources[method] = _untrained(holder)
        return adapt_stage(holder, data, sources)
    teachers = None
    if c.distill.lambda_kl or c.distill.lambda_hidden:
        prompts = [holder.start_prompt("teacher", task, card=data[task].card) for task in c.distill.tasks]
        teachers = JoinedBank({"teacher": SoftPromptBank(torch.stack(prompts))}, {"teacher": len(prompts)})
        teachers = teachers.to(holder.backbone().device).requires_grad_(False)
    stage = distill_stage(holder, data, teachers, teachers_hash="")
    if teachers is not None:
        holder.context.config = replace(c, data=replace(c.data, cache=str(cache)))
        cache_teachers(holder, stage, teachers, steps)
    return stage


def _untrained(holder: BackboneHolder) -> Source:
    """A distillation's outcome as far as its shapes go, with the source tasks that the configuration starts from."""
    c = holder.context.config
    named = list(c.adapt.transfer)
    if c.adapt.init.startswith("task:"):
        named.insert(0, c.adapt.init.removeprefix("task:"))
    tasks = list(dict.fromkeys(named)) or ["source"]
    start_LD = holder.start_prompt("metaprompt")
    cols_KLR, rows_KRD = identity_factors(
        len(tasks),
        length=c.prompt.num_virtual_tokens,
        rank=c.prompt.rank,
        hidden=start_LD.shape[1],
        generator=factor_generator(c.seed),
    )
    return Source(DecomposedBank(start_LD[None], cols_KLR, rows_KRD), tasks, "untrained", c.seed)
