"""The three stages, each as a ``Stage`` for the loop: what is trained, on what, from where it starts (METHOD: teach, distill, adapt)."""

from collections.abc import Sequence
from typing import cast

import torch

from engine.adapters import read_adapters
from engine.config import AdaptConfig
from engine.data import TaskData, data_fingerprint
from engine.errors import UserError
from engine.formulation import LossWeights
from engine.resolve import expand
from engine.sampling import EveryRow, TaskMixture, few_shot_order, seed_of
from engine.session import Session
from engine.stage import BankRow, Stage
from prompt_modules import DecomposedBank, RowGroup, RowwiseAdamW, SoftPromptBank, average_factors, identity_factors
from prompt_modules.bank import JoinedBank


def teach_stage(session: Session, data: dict[str, TaskData]) -> Stage:
    """Stage 0: one ordinary soft prompt per source task, all in one pass."""
    c, t, device = session.config, session.config.teach, session.backbone().device
    tasks = c.distill.sources
    prompts_KLD = torch.stack([session.start_prompt("teacher", task) for task in tasks])
    bank = JoinedBank({"teacher": SoftPromptBank(prompts_KLD)}, {"teacher": len(tasks)}).to(device)
    group = RowGroup({"prompts_KLD": bank.parts["teacher"].prompts_KLD}, t.lr, t.steps, t.warmup_steps, t.schedule, t.clip)  # type: ignore[dict-item]
    rows = [_row(task, "teacher", data[task], seed_of(c.seed, "order", task), t.steps, bool(t.eval_every)) for task in tasks]
    further = {}
    if t.adapters:  # they are the teachers: a loop over rows that never train keeps them as they are
        adapters_KLD, further["adapters"] = read_adapters(expand(t.adapters), tasks, c.prompt.length, prompts_KLD.shape[-1])
        with torch.no_grad():
            bank.parts["teacher"].prompts_KLD.copy_(adapters_KLD)  # type: ignore[operator, union-attr]
        for row in rows:
            row.train_indices, row.validation = [], None
    hashes = session.hashes(["data", "prompt", "teach"], data_fingerprint(data), sources=tasks, **further)
    return Stage(
        "teach", session.run_dir / "teachers", bank, rows, RowwiseAdamW({"teacher": group}), {"teacher": range(len(tasks))}, EveryRow(len(tasks), t.examples),
        t.steps, eval_every=t.eval_every, patience=t.patience, hashes=hashes,
    )  # fmt: skip


def distill_stage(session: Session, data: dict[str, TaskData], teachers: JoinedBank, teachers_hash: str) -> Stage:
    """Stage 1: the metaprompt and every source task's factors, from the frozen teachers."""
    c, s, device = session.config, session.config.distill, session.backbone().device
    tasks, k = s.sources, len(s.sources)
    start_LD = session.start_prompt("metaprompt")
    cols_KLR, rows_KRD = identity_factors(k, c.prompt.length, c.prompt.rank, start_LD.shape[1], factor_generator(c.seed))
    part = DecomposedBank(start_LD[None], cols_KLR, rows_KRD)
    bank = JoinedBank({"metaprompt": part}, {"metaprompt": k}).to(device)
    groups = {
        "shared": RowGroup({"shared_SLD": part.shared_SLD}, s.lr_shared, s.steps, s.warmup_steps, s.schedule, s.clip),
        # a task is present in a part of the steps; its own schedule counts those it is expected in
        "task": RowGroup({"cols_KLR": part.cols_KLR, "rows_KRD": part.rows_KRD}, s.lr_task, s.steps, s.warmup_steps, s.schedule, s.clip),
    }
    rows = [_row(task, "metaprompt", data[task], seed_of(c.seed, "order", task), 0, False) for task in tasks]
    sampler = TaskMixture([len(r.train_indices) for r in rows], s.batch, s.sampler, s.cap, s.task_subsets, seed_of(c.seed, "mixture"))
    present_K = torch.tensor([sampler.counts(step, [True] * k) for step in range(s.steps)]).gt(0).sum(0)
    groups["task"].total_steps = present_K.clamp(min=1).to(device)
    return Stage(
        "distill", session.run_dir, bank, rows, RowwiseAdamW(groups), {"shared": None, "task": range(k)}, sampler, s.steps,
        LossWeights(s.lambda_kl, s.lambda_hidden, s.temperature), teachers=teachers.to(device),
        hashes=session.hashes(["data", "prompt", "distill"], data_fingerprint(data), teachers=teachers_hash),
    )  # fmt: skip


def adapt_stage(session: Session, data: dict[str, TaskData], source: JoinedBank, source_tasks: Sequence[str], source_hash: str, source_seed: int) -> Stage:
    """Stage 2: every target x method x shots x seed is a row of one bank; all train in one pass."""
    c, a, device = session.config, session.config.adapt, session.backbone().device
    rows = adapt_rows(c.adapt, c.seed, data)
    parts: dict[str, SoftPromptBank | DecomposedBank] = {}  # on the device before the optimizer makes its state beside them
    groups: dict[str, RowGroup] = {}
    sizes: dict[str, int] = {m: n for m in a.methods if (n := sum(r.method == m for r in rows))}
    if "metaprompt" in sizes:
        part = _adapted_bank(session, source, source_tasks, sizes["metaprompt"], source_seed).to(device)
        parts["metaprompt"] = part
        factors = {"cols_KLR": part.cols_KLR, "rows_KRD": part.rows_KRD}
        groups["metaprompt"] = RowGroup(factors, a.lr_task, a.steps, a.warmup_steps, a.schedule, a.clip)
        if a.train == "all":
            groups["shared"] = RowGroup({"shared_SLD": part.shared_SLD}, a.lr_shared, a.steps, a.warmup_steps, a.schedule, a.clip)
    if "prompt_tuning" in sizes:
        own = [r for r in rows if r.method == "prompt_tuning"]
        tuned = SoftPromptBank(torch.stack([session.start_prompt("prompt_tuning", r.task, r.seed) for r in own])).to(device)
        parts["prompt_tuning"] = tuned
        groups["prompt_tuning"] = RowGroup({"prompts_KLD": tuned.prompts_KLD}, a.lr_prompt, a.steps, a.warmup_steps, a.schedule, a.clip)
    bank = JoinedBank({m: parts[m] for m in sizes}, sizes)
    spans = bank.spans()
    of_group = {name: spans["metaprompt" if name == "shared" else name] for name in groups}
    return Stage(
        "adapt", session.run_dir, bank, rows, RowwiseAdamW(groups), dict(of_group), EveryRow(len(rows), a.examples), a.steps,
        eval_every=a.eval_every, patience=a.patience, hashes=session.hashes(["data", "prompt", "adapt"], data_fingerprint(data), source=source_hash),
    )  # fmt: skip


def adapt_rows(a: AdaptConfig, seed: int, data: dict[str, TaskData]) -> list[BankRow]:
    """The rows of an adaptation, method by method.

    Raises:
        UserError: more shots than a task has examples; nothing to train.
    """
    problems, rows = [], []
    labels: dict[str, list[str] | None] = {}
    for method in a.methods:
        for task in a.targets:
            for shots in a.shots:
                train = data[task].splits["train"]
                if shots != "full" and int(shots) > len(train.kept):
                    problems.append(f"adapt.shots: {shots}: task {task} has {len(train.kept)} usable training examples")
                    continue
                for s in a.seeds[:1] if shots == "0" else a.seeds:  # zero-shot draws nothing
                    row = _row(task, method, data[task], seed_of(seed, "order", task, s), a.steps, False)
                    few = shots != "full"
                    if few:
                        if task not in labels:
                            labels[task] = train.labels()
                        generator = torch.Generator().manual_seed(seed_of(seed, "shots", task, s))
                        order = few_shot_order(labels[task], torch.randperm(len(train.kept), generator=generator).tolist())
                        row.train_indices = [train.kept[i] for i in order[: int(shots)]]
                    if a.eval_every and (not few or a.few_shot_validation) and shots != "0":
                        row.validation = data[task].splits.get("validation")
                    row.shots, row.seed = shots, s
                    rows.append(row)
    if problems:
        raise UserError(sorted(set(problems)))
    if not rows:
        raise UserError("adapt: no row to train; adapt.methods and adapt.shots leave nothing")
    return rows


def factor_generator(seed: int) -> torch.Generator:
    """Draws the further U columns from the distillation's seed: the same for it and for every task adapted from it."""
    return torch.Generator().manual_seed(seed_of(seed, "factors"))


def _adapted_bank(session: Session, source: JoinedBank, source_tasks: Sequence[str], n_rows: int, seed: int) -> DecomposedBank:
    a, part = session.config.adapt, cast(DecomposedBank, source.parts["metaprompt"])
    cols_KLR, rows_KRD = part.cols_KLR.detach(), part.rows_KRD.detach()
    _, length, rank = cols_KLR.shape
    start_cols_KLR, _ = identity_factors(1, length, rank, rows_KRD.shape[-1], factor_generator(seed))
    if a.init.startswith("task:"):
        name = a.init.removeprefix("task:")
        if name not in source_tasks:
            raise UserError(f"adapt.init: {name!r} is no source task of {a.source_run or session.run_dir}; it has {', '.join(source_tasks)}")
        cols_LR, rows_RD = cols_KLR[source_tasks.index(name)], rows_KRD[source_tasks.index(name)]
    else:
        how = {"auto": "mean_factors" if rank == 1 else "mean_product"}.get(a.init, a.init)
        cols_LR, rows_RD = average_factors(cols_KLR, rows_KRD, how, start_cols_KLR[0])
    shared = part.shared_SLD.detach()
    all_trained = a.train == "all"
    return DecomposedBank(shared.repeat(n_rows, 1, 1) if all_trained else shared, cols_LR.repeat(n_rows, 1, 1), rows_RD.repeat(n_rows, 1, 1), all_trained)


def _row(task: str, method: str, data: TaskData, stream_seed: int, steps: int, validate: bool) -> BankRow:
    train = data.splits["train"]
    return BankRow(task, method, "full", 0, train, list(train.kept), stream_seed, data.splits.get("validation") if validate else None, steps)
