"""Rows of several finished runs side by side in one bank's checkpoint.

Part by part (a method's rows): a tensor with the part's rows in front is joined row by row. One that the rows share,
such as a frozen P*, stays shared where it is the same to the bit in every run, and is repeated for each row where it is
not.
"""

import math
import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from engine.checkpoints import Checkpoint
from engine.recipes.merging.optimizer_rows import joined_optimizer
from engine.recipes.merging.prompt_sums import METHOD as SUM
from engine.recipes.merging.run import Entry, Run, rows_in_front

LABELS = ("task", "method", "shots", "seed")
UNTRAINED = {
    "stopped": True,
    "best_loss": math.inf,
}  # progress of a row that never trained; of what is not named here 0
BY_ROW = re.compile(r"_K[A-Z]*$")  # of a tensor's name: its shape begins with the rows


def shape_problems(runs: Sequence[Run]) -> list[str]:
    """Parts of one name that one bank cannot hold."""
    problems: list[str] = []
    for part in _parts(runs):
        holders = _holders(part, runs)
        shapes = _row_shapes(holders[0], part)
        for run in holders[1:]:
            own = _row_shapes(run, part)
            differing = sorted(n for n in own.keys() | shapes.keys() if own.get(n) != shapes.get(n))
            if differing:
                shown = ", ".join(f"{n} {own.get(n)} and {shapes.get(n)}" for n in differing[:4])
                both = f"--runs: {run.folder} and {holders[0].folder}"
                problems.append(f"{both}: rows of {part} have different shapes: {shown}")
        if problems:
            continue
        for name in shapes:
            if not _is_repeatable(name, part, holders) and not _is_shared(name, part, holders):
                problems.append(
                    f"--runs: rows of {part}: {name} is shared by the rows of a run and differs between runs, so it "
                    "cannot be repeated by row"
                )
    return problems


def _parts(runs: Sequence[Run]) -> list[str]:
    """Names of all runs' parts, each once."""
    found: dict[str, None] = {}
    for run in runs:
        found |= dict.fromkeys(run.spans)
    return list(found)


def _holders(part: str, runs: Sequence[Run]) -> list[Run]:
    """The runs that have rows of a part."""
    return [run for run in runs if part in run.spans]


def _row_shapes(run: Run, part: str) -> dict[str, list[int]]:
    """Shapes of a part's tensors without the first dimension, which counts rows."""
    return {name: list(tensor.shape[1:]) for name, tensor in run.tensors(part).items()}


def _is_repeatable(name: str, part: str, holders: Sequence[Run]) -> bool:
    """Whether every run's tensor is one for each row, or one that can be repeated for each row."""
    return all(rows_in_front(run.tensors(part)[name]) in (1, len(run.spans[part])) for run in holders)


def entries(runs: Sequence[Run], problems: list[str]) -> dict[str, list[Entry]]:
    """Part -> its rows, run by run, sums last. A row that stands twice, the same to the bit, is taken once; with
    other numbers it is a problem.
    """
    parts: dict[str, list[Entry]] = {part: [] for part in sorted(_parts(runs), key=lambda p: p == SUM)}
    seen: dict[tuple[Any, ...], Entry] = {}
    for number, run in enumerate(runs):
        for part, span in run.spans.items():
            for k in span:
                label = tuple(run.rows[k][key] for key in LABELS)
                if label not in seen:
                    seen[label] = number, k
                    parts[part].append((number, k))
                    continue
                there, k_there = seen[label]
                if not _same_to_the_bit(run.row(k), runs[there].row(k_there)):
                    shown = "/".join(map(str, label))
                    problems.append(
                        f"--runs: {run.folder} and {runs[there].folder} both hold {shown}, with different numbers; "
                        "adapt one of them without it"
                    )
    return parts


def _same_to_the_bit(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def join(runs: Sequence[Run], parts: dict[str, list[Entry]], told: list[str]) -> Checkpoint:
    """One checkpoint of these rows; of its state rows, progress and what else runs keep by row. ``told`` gets what
    was left out.
    """
    order: list[Entry] = []
    for rows in parts.values():
        order += rows
    states = [run.found.state for run in runs]
    state: dict[str, Any] = {"stage": "adapt"}
    state["rows"] = [runs[n].rows[k] for n, k in order]
    state["progress"] = _by_row([s["progress"] for s in states], runs, order, told)
    state["progress"]["step"] = max(s["step"] for s in states)
    known = {*state, "hashes", "changes", "source_tasks", "step", "reused", "sha256"}
    state |= _by_row([_without(s, known) for s in states], runs, order, told)
    prompts, reused = _joined_parts(runs, parts)
    return Checkpoint(prompts, joined_optimizer(runs, parts, told), state, reused)


def _without(values: dict[str, Any], keys: set[str]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in keys}


def _joined_parts(
    runs: Sequence[Run], parts: dict[str, list[Entry]]
) -> tuple[dict[str, Tensor], dict[str, dict[str, Tensor]]]:
    """Tensors of all parts: those that train, and by kind those that change seldom."""
    prompts: dict[str, Tensor] = {}
    best: dict[str, Tensor] = {}
    frozen: dict[str, Tensor] = {}
    for part, rows in parts.items():
        holders = _holders(part, runs)
        for name in holders[0].tensors(part):
            own, tensor = name.removeprefix("best."), _joined(name, part, rows, runs)
            if name != own:
                best[f"best.parts.{part}.{own}"] = tensor
            elif all(own in run.frozen(part) for run in holders):
                frozen[f"parts.{part}.{own}"] = tensor
            else:
                prompts[f"parts.{part}.{own}"] = tensor
    reused = {}
    if best:
        reused["best"] = best
    if frozen:
        reused["frozen"] = frozen
    return prompts, reused


def append_sums(merged: Checkpoint, rows: list[dict[str, Any]], prompts_KLD: Tensor) -> Checkpoint:
    """With prompts that nothing was trained for at the end: the part ``sum`` is the last."""
    name, n = f"parts.{SUM}.prompts_KLD", len(merged.state["rows"])
    further = _without(merged.state, {"rows", "progress", "changes"})
    state = merged.state | _with_untrained(further, n, len(rows))
    state["rows"] = [*merged.state["rows"], *rows]
    state["progress"] = _with_untrained(merged.state["progress"], n, len(rows))
    prompts = _with_prompts(merged.prompts, name, prompts_KLD)
    best = _with_prompts(merged.reused["best"], f"best.{name}", prompts_KLD)
    return Checkpoint(prompts, merged.optimizer, state, merged.reused | {"best": best})


def _with_untrained(values: dict[str, Any], n: int, further: int) -> dict[str, Any]:
    """Lists with an entry for each of ``n`` rows, longer by those of ``further`` rows that never trained."""
    out = {}
    for key, value in values.items():
        out[key] = value
        if isinstance(value, list) and len(value) == n:
            out[key] = value + [UNTRAINED.get(key, 0)] * further
    return out


def _with_prompts(tensors: dict[str, Tensor], name: str, prompts_KLD: Tensor) -> dict[str, Tensor]:
    """With prompts behind those that stand under ``name``, if any do."""
    if name in tensors:
        return tensors | {name: torch.cat([tensors[name], prompts_KLD])}
    return tensors | {name: prompts_KLD.clone()}


def _is_shared(name: str, part: str, holders: Sequence[Run]) -> bool:
    """Whether the rows of all runs share one tensor. In a part of one row it looks like the row's own: there, what
    trains, or is called K, is that.
    """
    copies = [run.tensors(part)[name] for run in holders]
    if not all(torch.equal(copies[0], other) for other in copies[1:]):
        return False
    sizes = [len(run.spans[part]) for run in holders]
    if [rows_in_front(tensor) for tensor in copies] != sizes:
        return True
    if set(sizes) != {1} or BY_ROW.search(name):
        return False
    return all(name.removeprefix("best.") in run.frozen(part) for run in holders)


def _joined(name: str, part: str, rows: Sequence[Entry], runs: Sequence[Run]) -> Tensor:
    holders = _holders(part, runs)
    if _is_shared(name, part, holders):
        return holders[0].tensors(part)[name].clone()
    return torch.stack([runs[n].of_row(k, runs[n].tensors(part)[name]) for n, k in rows])


def _by_row(
    values: Sequence[dict[str, Any]], runs: Sequence[Run], order: Sequence[Entry], told: list[str]
) -> dict[str, Any]:
    """Lists with an entry a row are joined; what is the same in all runs stays; the rest is left out, and told."""
    out: dict[str, Any] = {}
    keys: dict[str, None] = {}
    for one in values:
        keys |= dict.fromkeys(one)
    for key in keys:
        here = [one.get(key) for one in values]
        if all(_is_by_row(value, run) for value, run in zip(here, runs, strict=True)):
            out[key] = [here[n][k] for n, k in order]  # type: ignore[index]
        elif all(v == here[0] for v in here):
            out[key] = here[0]
        elif key != "step":
            told.append(f"merged: {key} differs between runs and belongs to no single row: left out")
    return out


def _is_by_row(value: Any, run: Run) -> bool:
    """Whether it is a list with an entry for each of the run's rows."""
    return isinstance(value, list) and len(value) == len(run.rows)
