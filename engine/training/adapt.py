"""Stage 2: every target x method x shots x seed is a row of one bank; all train in one pass, those of a
learning-rate sweep too.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch

from engine.config import DECOMPOSED, shared_rate
from engine.core import UserError
from engine.data import TaskData, data_fingerprint, seed_of
from engine.training.backbone_holder import BackboneHolder
from engine.training.rows import Rates, adapt_rows, adapt_sampler
from engine.training.stage import Adapter, Stage
from prompt_modules import (
    DecomposedBank,
    JoinedBank,
    LoraBank,
    RowGroup,
    RowwiseAdamW,
    SoftPromptBank,
    average_factors,
    identity_factors,
    lora_start,
)

SHARED = ".shared"  # of a method's optimizer group: its metaprompt


@dataclass(frozen=True)
class Source:
    """A finished distillation: what rows of a method start from.

    ``identity``: of its checkpoint. ``seed``: it drew its factors from. ``record``: its source tasks and their terms
    (``source_terms``).
    """

    part: DecomposedBank
    tasks: Sequence[str]
    identity: str
    seed: int
    record: Mapping[str, Any] = field(default_factory=dict)


def adapt_stage(
    holder: BackboneHolder,
    data: dict[str, TaskData],
    sources: Mapping[str, Source],
    rates: Rates | None = None,
    tuning: bool = False,
) -> Stage:
    """The rows of an adaptation, or of its learning-rate sweep, with banks, optimizer and sampler.

    Args:
        sources: of the methods that start from a distillation. rates: what the sweep chose, in place of the
            configuration's.
    """
    c, a, device = holder.context.config, holder.context.config.adapt, holder.backbone().device
    rows = adapt_rows(c, data, rates, tuning)
    by_method: dict[str, list[Adapter]] = {}
    for row in rows:
        by_method.setdefault(row.method, []).append(row)
    parts: dict[str, Any] = {}
    groups: dict[str, RowGroup] = {}
    for method, own in by_method.items():
        part = _part(holder, method, own, data, sources.get(method))
        parts[method] = part.to(device)  # before the optimizer makes its state beside it
        groups |= _groups(holder, method, own, parts[method])
    bank = JoinedBank(parts, {method: len(own) for method, own in by_method.items()})
    spans = bank.spans()
    used = {method: source for method, source in sources.items() if method in by_method}
    name, run_dir, eval_interval = "adapt", holder.context.run_dir, a.eval_interval
    if tuning:
        name, run_dir, eval_interval = "lr_sweep", holder.context.run_dir / "lr_sweep", 0
    return Stage(
        name,
        run_dir,
        bank,
        rows,
        RowwiseAdamW(groups),
        {group: spans[group.removesuffix(SHARED)] for group in groups},
        adapt_sampler(c, rows),
        a.steps,
        eval_interval=eval_interval,
        patience=a.patience,
        hashes=holder.context.hashes(
            ["data", "prompt", "adapt", "lr_sweep"],
            data_fingerprint(data),
            sources={method: source.identity for method, source in used.items()},
            rates={" ".join(cell): rate.plain() for cell, rate in (rates or {}).items()},
        ),
        source_tasks={method: dict(source.record) for method, source in used.items() if source.record},
    )


def _part(
    holder: BackboneHolder, method: str, rows: Sequence[Adapter], data: Mapping[str, TaskData], source: Source | None
) -> Any:
    """The bank of a method's rows as they start."""
    if method in DECOMPOSED:
        assert source is not None
        return _adapted_bank(holder, method, source, rows)
    return BUILDERS[method](holder, rows, data)


def _soft_prompts(holder: BackboneHolder, rows: Sequence[Adapter], data: Mapping[str, TaskData]) -> SoftPromptBank:
    """Whole prompts, each with a start of its own."""
    starts = [holder.start_prompt("prompt_tuning", row.task, row.seed, card=data[row.task].card) for row in rows]
    return SoftPromptBank(torch.stack(starts))


def _groups(holder: BackboneHolder, method: str, rows: Sequence[Adapter], part: Any) -> dict[str, RowGroup]:
    """Optimizer groups of a method's bank by name: its rows, and their metaprompts where those train too."""
    a = holder.context.config.adapt

    def group(parameters: dict[str, Any], lrs: Sequence[float]) -> RowGroup:
        return RowGroup(
            parameters, torch.tensor(lrs, dtype=torch.float64), a.steps, a.warmup_steps, a.schedule, a.max_grad_norm
        )

    lrs = [row.rate.own for row in rows]
    if isinstance(part, LoraBank):
        trained = {name: parameter for name, parameter in part.named_parameters() if parameter.requires_grad}
        return {method: group(trained, lrs)}
    if isinstance(part, SoftPromptBank):
        return {method: group({"prompts_KLD": part.prompts_KLD}, [holder.prompt_rate(lr) for lr in lrs])}
    groups = {method: group({"cols_KLR": part.cols_KLR, "rows_KRD": part.rows_KRD}, lrs)}
    if a.train == "all":
        shared_lrs = [holder.prompt_rate(shared_rate(a, row.rate)) for row in rows]
        groups[method + SHARED] = group({"shared_SLD": part.shared_SLD}, shared_lrs)
    return groups


def factor_generator(seed: int) -> torch.Generator:
    """Draws the further U columns from the distillation's seed: the same for it and for every task adapted from it."""
    return torch.Generator().manual_seed(seed_of(seed, "factors"))


def _adapted_bank(holder: BackboneHolder, method: str, source: Source, rows: Sequence[Adapter]) -> DecomposedBank:
    a, part = holder.context.config.adapt, source.part
    _, length, rank = part.cols_KLR.shape
    start_cols_KLR, _ = identity_factors(
        1, length, rank, hidden=part.rows_KRD.shape[-1], generator=factor_generator(source.seed)
    )
    starts: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    cols, factors = [], []
    for row in rows:
        init = row.variant if row.variant.startswith("task:") else a.init
        if init not in starts:
            starts[init] = _start(holder, method, source, init, start_cols_KLR[0])
        cols.append(starts[init][0])
        factors.append(starts[init][1])
    shared = part.shared_SLD.detach()
    if a.train != "all":
        return DecomposedBank(shared, cols_KLR=torch.stack(cols), rows_KRD=torch.stack(factors), train_shared=False)
    return DecomposedBank(
        shared.repeat(len(rows), 1, 1), cols_KLR=torch.stack(cols), rows_KRD=torch.stack(factors), train_shared=True
    )


def _start(
    holder: BackboneHolder, method: str, source: Source, init: str, start_cols_LR: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Factors (L, R) and (R, D) that a row starts from.

    Args:
        init: of the source tasks' factors their mean, of a kind; or ``task:NAME``, those of one.

    Raises:
        UserError: there is no such source task.
    """
    a, cols_KLR, rows_KRD = holder.context.config.adapt, source.part.cols_KLR.detach(), source.part.rows_KRD.detach()
    if not init.startswith("task:"):
        if init == "auto":
            init = "mean_factors" if cols_KLR.shape[2] == 1 else "mean_product"
        return average_factors(cols_KLR, rows_KRD, how=init, start_cols_LR=start_cols_LR)
    name = init.removeprefix("task:")
    if name not in source.tasks:
        run = a.source_run if method == "metaprompt" else a.multitask_run
        raise UserError(
            f"adapt.init: {name!r} is not a source task of {run or holder.context.run_dir}; it has "
            f"{', '.join(source.tasks)}"
        )
    k = source.tasks.index(name)
    return cols_KLR[k], rows_KRD[k]


def _lora(holder: BackboneHolder, rows: Sequence[Adapter], _: Mapping[str, TaskData]) -> LoraBank:
    """Low-rank updates of every linear layer, each with a start of its own."""
    generators = []
    for row in rows:
        seed = seed_of(holder.context.config.seed, "lora", row.task, row.seed)
        generators.append(torch.Generator().manual_seed(seed))
    return lora_start(
        len(rows),
        shapes=holder.backbone().updates.shapes,
        rank=holder.context.config.adapt.lora_rank,
        hidden=holder.context.model_config.hidden_size,
        generators=generators,
    )


# method -> builder of its part of the bank; those that start from a distillation are built by `_adapted_bank`
BUILDERS = {"prompt_tuning": _soft_prompts, "lora": _lora}


def source_of(bank: JoinedBank, state: Mapping[str, Any], identity: str) -> Source:
    """A finished distillation's checkpoint as a start."""
    part = cast(DecomposedBank, next(iter(bank.parts.values())))
    return Source(part, [row["task"] for row in state["rows"]], identity, state["hashes"]["config"]["seed"])
