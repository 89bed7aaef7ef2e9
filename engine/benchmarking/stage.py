"""The stage that a benchmark runs: the very one of a run, on invented rows or the run's own, and started from
prompts that nobody trained.
"""

from dataclasses import replace
from pathlib import Path

import torch

from engine.config import DECOMPOSED, RunConfig
from engine.core import UserError
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
from strict_yaml import must_be_one_of

MODES = ("teach", "distill", "adapt")
NEEDS = {"teach": "distill.sources", "distill": "distill.sources", "adapt": "adapt.targets"}


def mode_of(asked: str, config: RunConfig) -> str:
    """The stage to measure: as asked, else the configuration's main one.

    Raises:
        UserError: there is no such stage, or the configuration names no task for it.
    """
    mode = asked
    if not mode:
        mode = "adapt" if config.adapt.targets and not config.distill.sources else "distill"
    if mode not in MODES:
        raise UserError(f"command line: --mode: {must_be_one_of(asked, MODES)}")
    tasks = config.adapt.targets if mode == "adapt" else config.distill.sources
    if not tasks:
        raise UserError(f"{NEEDS[mode]}: missing; --mode={mode} needs at least one task")
    return mode


def for_steps(config: RunConfig, steps: int) -> RunConfig:
    """The configuration with stages of at least so many steps, and no validation between them."""
    return replace(
        config,
        teach=replace(config.teach, steps=max(config.teach.steps, steps), eval_interval=0, adapters="", run=""),
        distill=replace(config.distill, steps=max(config.distill.steps, steps)),
        adapt=replace(config.adapt, steps=max(config.adapt.steps, steps), eval_interval=0),
    )


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
