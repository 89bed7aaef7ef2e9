"""Stages 0 and 1 as a ``Stage`` for the loop: what is trained, on what, from where it starts. Stage 2 is in ``adaptation``."""

import torch

from engine.adaptation import factor_generator
from engine.adapters import read_adapters
from engine.data import TaskData, data_fingerprint
from engine.formulation import LossWeights
from engine.resolve import expand
from engine.sampling import EveryRow, TaskMixture, seed_of
from engine.session import Session
from engine.stage import BankRow, Stage
from prompt_modules import DecomposedBank, RowGroup, RowwiseAdamW, SoftPromptBank, identity_factors
from prompt_modules.bank import JoinedBank


def teach_stage(session: Session, data: dict[str, TaskData]) -> Stage:
    """Stage 0: one ordinary soft prompt per source task, all in one pass."""
    c, t, device = session.config, session.config.teach, session.backbone().device
    tasks = c.distill.tasks
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


def distill_stage(session: Session, data: dict[str, TaskData], teachers: JoinedBank | None, teachers_hash: str) -> Stage:
    """Stage 1: the metaprompt and every source task's factors, from the frozen teachers; without teachers a multitask prompt."""
    c, s, device = session.config, session.config.distill, session.backbone().device
    tasks, k = s.tasks, len(s.tasks)
    start_LD = session.start_prompt("metaprompt")
    cols_KLR, rows_KRD = identity_factors(k, c.prompt.length, c.prompt.rank, start_LD.shape[1], factor_generator(c.seed))
    part = DecomposedBank(start_LD[None], cols_KLR, rows_KRD)
    name = "metaprompt" if teachers is not None else "multitask_prompt"
    bank = JoinedBank({name: part}, {name: k}).to(device)
    groups = {
        "shared": RowGroup({"shared_SLD": part.shared_SLD}, s.lr_shared, s.steps, s.warmup_steps, s.schedule, s.clip),
        # a task is present in a part of the steps; its own schedule counts those it is expected in
        "task": RowGroup({"cols_KLR": part.cols_KLR, "rows_KRD": part.rows_KRD}, s.lr_task, s.steps, s.warmup_steps, s.schedule, s.clip),
    }
    rows = [_row(task, name, data[task], seed_of(c.seed, "order", task), 0, False) for task in tasks]
    sampler = TaskMixture([len(r.train_indices) for r in rows], s.batch, s.sampler, s.cap, s.task_subsets, seed_of(c.seed, "mixture"))
    present_K = torch.tensor([sampler.counts(step, [True] * k) for step in range(s.steps)]).gt(0).sum(0)
    groups["task"].total_steps = present_K.clamp(min=1).to(device)
    return Stage(
        "distill", session.run_dir, bank, rows, RowwiseAdamW(groups), {"shared": None, "task": range(k)}, sampler, s.steps,
        LossWeights(s.lambda_kl, s.lambda_hidden, s.temperature), teachers=None if teachers is None else teachers.to(device),
        hashes=session.hashes(["data", "prompt", "distill"], data_fingerprint(data), teachers=teachers_hash),
    )  # fmt: skip


def _row(task: str, method: str, data: TaskData, stream_seed: int, steps: int, validate: bool) -> BankRow:
    train = data.splits["train"]
    return BankRow(task, method, "full", 0, train, list(train.kept), stream_seed, data.splits.get("validation") if validate else None, steps)
