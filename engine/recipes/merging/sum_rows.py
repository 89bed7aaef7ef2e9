"""Rows of prompt sums in a merged run: which rows they are made of, where those began, and the sums themselves."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from engine import checkpoints
from engine.checkpoints import Checkpoint, bank_of
from engine.config import RunConfig, expand
from engine.core import UserError
from engine.data import load_cards, unknown_task
from engine.recipes.merging import prompt_sums
from engine.recipes.merging.prompt_sums import PromptSum
from engine.recipes.merging.rows import LABELS, Run, append_sums
from engine.recipes.merging.sum_flags import sum_problems
from prompt_modules import JoinedBank


def with_sums(
    merged: Checkpoint,
    *,
    order: Sequence[str],
    runs: Sequence[Run],
    sums: Sequence[PromptSum],
    sum_of: str,
    config: RunConfig,
) -> Checkpoint:
    """The merged run with a row more for each sum and seed.

    Args:
        order: names of the bank's parts. sum_of: METHOD/SHOTS of the rows that are summed.

    Raises:
        UserError: a task is unknown or has no such row, or the rows have no start in common.
    """
    method, _, shots = sum_of.partition("/")
    problems = sum_problems([], sum_of)
    cards = load_cards(config.data)
    for s in sums:
        if s.target not in cards:
            problems.append(f"--sum: {s.text!r}: {unknown_task(s.target, cards)}")
    if problems:
        raise UserError(problems)
    start_LD = _start(method, runs, any(s.needs_start for s in sums), problems)
    if problems:
        raise UserError(problems)
    numbers: dict[tuple[Any, ...], int] = {}
    for k, row in enumerate(merged.state["rows"]):
        numbers[tuple(row[key] for key in LABELS)] = k
    bank = _bank(merged, order)
    rows: list[dict[str, Any]] = []
    prompts: list[Tensor] = []
    for s in sums:
        seeds = _seeds_with_all_rows(s, rows=merged.state["rows"], method=method, shots=shots)
        if not seeds:
            tasks = ", ".join(s.tasks)
            problems.append(f"--sum: {s.text!r}: no seed for which {tasks} each have a row {sum_of}; see --sum_of")
        for seed in seeds:
            label = (s.target, prompt_sums.METHOD, "0", seed)
            if label in numbers and seed == seeds[0]:
                problems.append(f"--sum: {s.text!r}: a second sum for {s.target}; a run holds one")
            numbers[label] = len(numbers)
            own = {task: _prompt(bank, numbers[task, method, shots, seed]) for task in s.tasks}
            rows.append(dict(zip(LABELS, label, strict=True)))
            prompts.append(s.prompt(own, start_LD))
    if problems:
        raise UserError(problems)
    return append_sums(merged, rows, torch.stack(prompts))


def _bank(merged: Checkpoint, order: Sequence[str]) -> JoinedBank:
    """The best rows of the merged run."""
    tensors = dict(merged.prompts)
    for reused in merged.reused.values():
        tensors |= reused
    return bank_of(tensors, order)


@torch.no_grad()
def _prompt(bank: JoinedBank, row: int) -> Tensor:
    """(L, D) of a bank row."""
    return bank.prompts(torch.tensor([row]))[0]


def _seeds_with_all_rows(s: PromptSum, rows: Sequence[dict[str, Any]], method: str, shots: str) -> list[int]:
    """Seeds of which every task of the sum has a row, in the order of the first task's rows."""
    by_task: dict[str, list[int]] = {task: [] for task in s.tasks}
    for row in rows:
        if row["task"] in by_task and (row["method"], row["shots"]) == (method, shots):
            by_task[row["task"]].append(row["seed"])
    first, *others = by_task.values()
    common = set(first).intersection(*others)
    return [seed for seed in first if seed in common]


def _start(method: str, runs: Sequence[Run], needed: bool, problems: list[str]) -> Tensor | None:
    """(L, D) that the rows of a method began at; None where it is not needed."""
    if method == "prompt_tuning":
        return _start_of_prompt_tuning(runs, needed, problems)
    if needed:
        return _shared_metaprompt(method, runs, problems)
    return None


def _start_of_prompt_tuning(runs: Sequence[Run], needed: bool, problems: list[str]) -> Tensor | None:
    """The one start that ``prompt.init: text`` gives all rows; a row without training is it."""
    starts = set()
    for run in runs:
        if any(row["method"] == "prompt_tuning" for row in run.rows):
            starts.add((run.config.prompt.init, run.config.prompt.init_text))
    if len(starts) > 1 or any(init != "text" for init, _ in starts):
        problems.append(
            "--sum_of: each row of prompt_tuning began at a draw of its own; they can be summed only under "
            "one prompt.init: text"
        )
    if not needed:
        return None
    for run in runs:
        for k, row in enumerate(run.rows):
            if (row["method"], row["shots"]) == ("prompt_tuning", "0"):
                return run.row(k)["best.prompts_KLD"]
    problems.append(
        '--sum: weights that do not sum to 1 need the start of the prompts; to have it, adapt with shots "0" too'
    )
    return None


def _shared_metaprompt(method: str, runs: Sequence[Run], problems: list[str]) -> Tensor | None:
    """P* that the rows of a method began at: in a run where it was frozen, else in the distillation."""
    for run in runs:
        if method not in run.sources:
            continue
        if "shared_SLD" in run.frozen(method):
            return run.tensors(method)["shared_SLD"][0]
        folder = expand(run.config.adapt.source_run)  # each row trained a P* of its own
        source = checkpoints.load(folder) if folder.is_dir() else None
        if source is not None and source.identity == run.sources[method]:
            return source.prompts["best.parts.metaprompt.shared_SLD"][0]
    problems.append(
        "--sum: weights that do not sum to 1 need P*; under adapt.train: all it is in adapt.source_run alone, "
        "which is not there as it was"
    )
    return None
