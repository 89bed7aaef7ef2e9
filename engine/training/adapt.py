"""Stage 2: every target x method x shots x seed is a row of one bank; all train in one pass, those of a
learning-rate sweep too.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch

from engine.config import DECOMPOSED, TRAINED, Rate, RunConfig, own_rate, shared_rate, tried_rates
from engine.core import UserError
from engine.data import EveryRow, Split, TaskData, data_fingerprint, few_shot_order, seed_of
from engine.training.context import RunContext
from engine.training.stage import Adapter, Stage
from prompt_modules import (
    DecomposedBank,
    JoinedBank,
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


Rates = Mapping[tuple[str, str], Rate]  # (method, shots) -> what a sweep chose


def adapt_stage(
    run_context: RunContext,
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
    c, a, device = run_context.config, run_context.config.adapt, run_context.backbone().device
    rows = adapt_rows(c, data, rates, tuning)
    parts: dict[str, Any] = {}  # on the device before the optimizer makes its state beside them
    groups: dict[str, RowGroup] = {}
    by_method = {m: own for m in trained_methods(a.methods) if (own := [r for r in rows if r.method == m])}

    def group(parameters: dict[str, Any], lrs: Sequence[float]) -> RowGroup:
        return RowGroup(
            parameters, torch.tensor(lrs, dtype=torch.float64), a.steps, a.warmup_steps, a.schedule, a.max_grad_norm
        )

    for method, own in by_method.items():
        lrs = [r.rate.own for r in own]
        if method in DECOMPOSED:
            part: Any = _adapted_bank(run_context, method, sources[method], own).to(device)
            groups[method] = group({"cols_KLR": part.cols_KLR, "rows_KRD": part.rows_KRD}, lrs)
            if a.train == "all":
                shared = [run_context.prompt_rate(shared_rate(a, r.rate)) for r in own]
                groups[method + SHARED] = group({"shared_SLD": part.shared_SLD}, shared)
        elif method == "lora":
            part = _lora(run_context, own).to(device)
            groups[method] = group({n: p for n, p in part.named_parameters() if p.requires_grad}, lrs)
        else:
            starts = [run_context.start_prompt("prompt_tuning", r.task, r.seed, card=data[r.task].card) for r in own]
            part = SoftPromptBank(torch.stack(starts)).to(device)
            groups[method] = group({"prompts_KLD": part.prompts_KLD}, [run_context.prompt_rate(lr) for lr in lrs])
        parts[method] = part
    bank = JoinedBank(parts, {m: len(own) for m, own in by_method.items()})
    spans = bank.spans()
    further = {method: source.identity for method, source in sources.items() if method in by_method}
    return Stage(
        "lr_sweep" if tuning else "adapt",
        run_context.run_dir / "lr_sweep" if tuning else run_context.run_dir,
        bank,
        rows,
        RowwiseAdamW(groups),
        {name: spans[name.removesuffix(SHARED)] for name in groups},
        EveryRow(len(rows), a.batch_size),
        a.steps,
        eval_interval=0 if tuning else a.eval_interval,
        patience=a.patience,
        hashes=run_context.hashes(
            ["data", "prompt", "adapt", "lr_sweep"],
            data_fingerprint(data),
            sources=further,
            rates={" ".join(k): rate.plain() for k, rate in (rates or {}).items()},
        ),
        source_tasks={method: dict(sources[method].record) for method in further if sources[method].record},
    )


def trained_methods(methods: Sequence[str]) -> list[str]:
    """Those that are rows of the bank."""
    return [m for m in methods if m in TRAINED]


def adapt_rows(
    c: RunConfig, data: dict[str, TaskData], rates: Rates | None = None, tuning: bool = False
) -> list[Adapter]:
    """The rows of an adaptation, method by method.

    Raises:
        UserError: more shots than a task has examples; nothing to train.
    """
    a, problems, rows = c.adapt, [], []
    shots_tried = (c.lr_sweep.shots or [s for s in a.shots if s != "0"]) if tuning else a.shots
    labels: dict[str, list[str] | None] = {}
    for method in trained_methods(a.methods):
        for task in a.targets:
            train = data[task].splits["train"]
            for shots in shots_tried:
                if shots != "full" and int(shots) > len(train.kept):
                    problems.append(f"adapt.shots: {shots}: task {task} has {len(train.kept)} usable training examples")
                    continue
                seeds = (
                    [c.lr_sweep.seed] if tuning else a.seeds[:1] if shots == "0" else a.seeds
                )  # zero-shot draws nothing
                for s in seeds:
                    indices = train_indices(train, labels, task, shots, s, c.seed)
                    for variant, rate in _variants(c, method, shots, rates, tuning):
                        row = Adapter(
                            task,
                            method,
                            shots,
                            s,
                            train,
                            indices,
                            seed_of(c.seed, "order", task, s),
                            None,
                            a.steps,
                            variant,
                            rate,
                        )
                        if (
                            not tuning
                            and a.eval_interval
                            and (shots == "full" or a.few_shot_validation)
                            and shots != "0"
                        ):
                            row.validation = data[task].splits.get("validation")
                        rows.append(row)
    if problems:
        raise UserError(sorted(set(problems)))
    if not rows and not tuning:
        raise UserError("adapt: no row to train; adapt.methods and adapt.shots leave nothing")
    return rows


def _variants(c: RunConfig, method: str, shots: str, rates: Rates | None, tuning: bool) -> Iterator[tuple[str, Rate]]:
    """(variant, rates) of a method's rows at so many shots."""
    if tuning:
        for rate in tried_rates(c, method):
            label = f"lr={rate.own:g}"
            if rate.shared is not None:
                label += f",shared={rate.shared:g}"
            yield label, rate
        return
    chosen = (rates or {}).get((method, shots), Rate(own_rate(c, method)))
    yield "", chosen
    if method == "metaprompt":
        for task in c.adapt.transfer:
            yield f"task:{task}", chosen


def train_indices(
    train: Split, labels: dict[str, list[str] | None], task: str, shots: str, seed: int, run_seed: int
) -> list[int]:
    """Examples that a row trains on; a few-shot set is the same for every method.

    Args:
        labels: by task, kept from call to call: they are read once.
    """
    if shots == "full":
        return list(train.kept)
    if task not in labels:
        labels[task] = train.labels()
    generator = torch.Generator().manual_seed(seed_of(run_seed, "shots", task, seed))
    order = few_shot_order(labels[task], torch.randperm(len(train.kept), generator=generator).tolist())
    return [train.kept[i] for i in order[: int(shots)]]


def factor_generator(seed: int) -> torch.Generator:
    """Draws the further U columns from the distillation's seed: the same for it and for every task adapted from it."""
    return torch.Generator().manual_seed(seed_of(seed, "factors"))


def _adapted_bank(run_context: RunContext, method: str, source: Source, rows: Sequence[Adapter]) -> DecomposedBank:
    a, part = run_context.config.adapt, source.part
    cols_KLR, rows_KRD = part.cols_KLR.detach(), part.rows_KRD.detach()
    _, length, rank = cols_KLR.shape
    start_cols_KLR, _ = identity_factors(1, length, rank, rows_KRD.shape[-1], factor_generator(source.seed))

    def start(init: str) -> tuple[torch.Tensor, torch.Tensor]:
        if not init.startswith("task:"):
            how = {"auto": "mean_factors" if rank == 1 else "mean_product"}.get(init, init)
            return average_factors(cols_KLR, rows_KRD, how, start_cols_KLR[0])
        name = init.removeprefix("task:")
        if name not in source.tasks:
            key, run = ("adapt.init", a.source_run if method == "metaprompt" else a.multitask_run)
            raise UserError(
                f"{key}: {name!r} is no source task of {run or run_context.run_dir}; it has {', '.join(source.tasks)}"
            )
        return cols_KLR[source.tasks.index(name)], rows_KRD[source.tasks.index(name)]

    inits = [r.variant if r.variant.startswith("task:") else a.init for r in rows]
    starts = {init: start(init) for init in dict.fromkeys(inits)}
    cols, factors = (torch.stack([starts[init][n] for init in inits]) for n in (0, 1))
    shared, all_trained = part.shared_SLD.detach(), a.train == "all"
    return DecomposedBank(shared.repeat(len(rows), 1, 1) if all_trained else shared, cols, factors, all_trained)


def _lora(run_context: RunContext, rows: Sequence[Adapter]) -> Any:
    backbone = run_context.backbone()
    generators = [torch.Generator().manual_seed(seed_of(run_context.config.seed, "lora", r.task, r.seed)) for r in rows]
    return lora_start(
        len(rows),
        backbone.updates.shapes,
        run_context.config.adapt.lora_rank,
        run_context.model_config.hidden_size,
        generators,
    )


def source_of(bank: JoinedBank, state: Mapping[str, Any], identity: str) -> Source:
    """A finished distillation's checkpoint as a start."""
    part = cast(DecomposedBank, next(iter(bank.parts.values())))
    return Source(part, [row["task"] for row in state["rows"]], identity, state["hashes"]["config"]["seed"])
