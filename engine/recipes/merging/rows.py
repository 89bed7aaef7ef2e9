"""Rows of several finished runs side by side in one bank's checkpoint.

Part by part (a method's rows): a tensor with the part's rows in front is joined row by row. One that the rows share,
such as a frozen P*, stays shared where it is the same to the bit in every run, and is repeated for each row where it is
not.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engine.checkpoints import Checkpoint
from engine.config import RunConfig
from engine.recipes.merging.prompt_sums import METHOD as SUM

LABELS = ("task", "method", "shots", "seed")
UNTRAINED = {
    "stopped": True,
    "best_loss": math.inf,
}  # progress of a row that never trained; of what is not named here 0
BY_ROW = re.compile(r"_K[A-Z]*$")  # of a tensor's name: its shape begins with the rows
Entry = tuple[int, int]  # number of the run, number of the row in it


@dataclass
class Run:
    """name: for people, without a path. spans: part -> its rows."""

    folder: Path
    name: str
    config: RunConfig
    found: Checkpoint
    spans: dict[str, range]

    @property
    def rows(self) -> list[dict[str, Any]]:
        return self.found.state["rows"]  # type: ignore[no-any-return]

    @property
    def sources(self) -> dict[str, str]:
        """Part -> the distillation that its rows started from."""
        return self.found.state["hashes"].get("sources", {})  # type: ignore[no-any-return]

    def tensors(self, part: str) -> dict[str, Tensor]:
        """By name, those of the best step with ``best.`` in front."""
        out = {}
        for name, tensor in self.found.prompts.items():
            best, _, rest = name.rpartition("parts.")
            if rest.startswith(f"{part}."):
                out[best + rest[len(part) + 1 :]] = tensor
        return out

    def frozen(self, part: str) -> set[str]:
        """Names of the part's tensors that no step changed."""
        return {
            name.removeprefix(f"parts.{part}.")
            for name in self.found.kept.get("frozen", {})
            if name.startswith(f"parts.{part}.")
        }

    def of_row(self, k: int, tensor: Tensor) -> Tensor:
        """What of a tensor belongs to row ``k``: its own, or what all rows of its part share."""
        span = next(span for span in self.spans.values() if k in span)
        return tensor[k - span.start] if _front(tensor) == len(span) else tensor[0] if _front(tensor) == 1 else tensor

    def row(self, k: int) -> dict[str, Tensor]:
        """All that row ``k`` is made of."""
        part = next(part for part, span in self.spans.items() if k in span)
        return {name: self.of_row(k, tensor) for name, tensor in self.tensors(part).items()}


def shape_problems(runs: Sequence[Run]) -> list[str]:
    """Parts of one name that one bank cannot hold."""
    problems = []
    for part in dict.fromkeys(p for run in runs for p in run.spans):
        first, *others = [run for run in runs if part in run.spans]
        shapes = {name: list(tensor.shape[1:]) for name, tensor in first.tensors(part).items()}
        for run in others:
            both, own = (
                f"--runs: {run.folder} and {first.folder}: rows of {part}",
                {n: list(t.shape[1:]) for n, t in run.tensors(part).items()},
            )
            differing = sorted(n for n in own.keys() | shapes.keys() if own.get(n) != shapes.get(n))
            if differing:
                shown = ", ".join(f"{n} {own.get(n)} and {shapes.get(n)}" for n in differing[:4])
                problems.append(f"{both} of other shapes: {shown}")
        for name in () if problems else shapes:
            copies = [run.tensors(part)[name] for run in (first, *others)]
            repeatable = all(
                _front(t) in (1, len(run.spans[part])) for run, t in zip((first, *others), copies, strict=True)
            )
            if not repeatable and not _is_shared(name, part, (first, *others)):
                problems.append(
                    f"--runs: rows of {part}: {name} is shared by the rows of a run and differs from run to run, "
                    "and cannot be repeated by row"
                )
    return problems


def entries(runs: Sequence[Run], problems: list[str]) -> dict[str, list[Entry]]:
    """Part -> its rows, run by run, sums last. A row that stands twice, the same to the bit, is taken once; with
    other numbers it is a problem.
    """
    names = dict.fromkeys(part for run in runs for part in run.spans)
    parts: dict[str, list[Entry]] = {part: [] for part in sorted(names, key=lambda p: p == SUM)}
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
                one, other = run.row(k), runs[there].row(k_there)
                if one.keys() != other.keys() or not all(torch.equal(one[name], other[name]) for name in one):
                    shown = "/".join(map(str, label))
                    problems.append(
                        f"--runs: {run.folder} and {runs[there].folder} both hold {shown}, with other numbers; "
                        "adapt one of them without it"
                    )
    return parts


def join(runs: Sequence[Run], parts: dict[str, list[Entry]], told: list[str]) -> Checkpoint:
    """One checkpoint of these rows; of its state rows, progress and what else runs keep by row. ``told`` gets what
    was left out.
    """
    prompts: dict[str, Tensor] = {}
    kept: dict[str, dict[str, Tensor]] = {"best": {}, "frozen": {}}
    for part, rows in parts.items():
        holders = [run for run in runs if part in run.spans]
        for name in holders[0].tensors(part):
            own, tensor = name.removeprefix("best."), _joined(name, part, rows, runs)
            if name != own:
                kept["best"][f"best.parts.{part}.{own}"] = tensor
            elif all(own in run.frozen(part) for run in holders):
                kept["frozen"][f"parts.{part}.{own}"] = tensor
            else:
                prompts[f"parts.{part}.{own}"] = tensor
    order = [entry for rows in parts.values() for entry in rows]
    states = [run.found.state for run in runs]
    state: dict[str, Any] = {"stage": "adapt"}
    state |= {
        "rows": [runs[n].rows[k] for n, k in order],
        "progress": _by_row([s["progress"] for s in states], runs, order, told),
    }
    state["progress"]["step"] = max(s["step"] for s in states)
    known = {*state, "hashes", "changes", "source_tasks", "step", "kept", "sha256"}
    state |= _by_row([{k: v for k, v in s.items() if k not in known} for s in states], runs, order, told)
    return Checkpoint(
        prompts, _optimizer(runs, parts, told), state, {kind: tensors for kind, tensors in kept.items() if tensors}
    )


def append_sums(merged: Checkpoint, rows: list[dict[str, Any]], prompts_KLD: Tensor) -> Checkpoint:
    """With prompts that nothing was trained for at the end: the part ``sum`` is the last."""
    name, n = f"parts.{SUM}.prompts_KLD", len(merged.state["rows"])

    def longer(tensors: dict[str, Tensor], at: str) -> dict[str, Tensor]:
        return tensors | {at: torch.cat([tensors[at], prompts_KLD]) if at in tensors else prompts_KLD.clone()}

    def more(values: dict[str, Any]) -> dict[str, Any]:
        return {
            k: [*v, *[UNTRAINED.get(k, 0)] * len(rows)] if isinstance(v, list) and len(v) == n else v
            for k, v in values.items()
        }

    further = more({k: v for k, v in merged.state.items() if k not in ("rows", "progress", "changes")})
    state = (
        merged.state | further | {"rows": [*merged.state["rows"], *rows], "progress": more(merged.state["progress"])}
    )
    kept = merged.kept | {"best": longer(merged.kept["best"], f"best.{name}")}
    return Checkpoint(longer(merged.prompts, name), merged.optimizer, state, kept)


def _front(tensor: Tensor) -> int:
    return tensor.shape[0] if tensor.dim() else 0


def _is_shared(name: str, part: str, holders: Sequence[Run]) -> bool:
    """Whether the rows of all runs share one tensor. In a part of one row it looks like the row's own: there, what
    trains, or is called K, is that.
    """
    copies, sizes = [run.tensors(part)[name] for run in holders], [len(run.spans[part]) for run in holders]
    same = all(torch.equal(copies[0], other) for other in copies[1:])
    looks_shared = any(_front(t) != n for t, n in zip(copies, sizes, strict=True))
    alone = (
        set(sizes) == {1}
        and not BY_ROW.search(name)
        and all(name.removeprefix("best.") in run.frozen(part) for run in holders)
    )
    return same and (looks_shared or alone)


def _joined(name: str, part: str, rows: Sequence[Entry], runs: Sequence[Run]) -> Tensor:
    holders = [run for run in runs if part in run.spans]
    if _is_shared(name, part, holders):
        return holders[0].tensors(part)[name].clone()
    return torch.stack([runs[n].of_row(k, runs[n].tensors(part)[name]) for n, k in rows])


def _by_row(
    values: Sequence[dict[str, Any]], runs: Sequence[Run], order: Sequence[Entry], told: list[str]
) -> dict[str, Any]:
    """Lists with an entry a row are joined; what is the same in all runs stays; the rest is left out, and told."""
    out: dict[str, Any] = {}
    for key in dict.fromkeys(k for one in values for k in one):
        here = [one.get(key) for one in values]
        if all(isinstance(v, list) and len(v) == len(run.rows) for v, run in zip(here, runs, strict=True)):
            out[key] = [here[n][k] for n, k in order]  # type: ignore[index]
        elif all(v == here[0] for v in here):
            out[key] = here[0]
        elif key != "step":
            told.append(f"merged: {key} differs from run to run and is no row's own: left out")
    return out


def _optimizer(runs: Sequence[Run], parts: dict[str, list[Entry]], told: list[str]) -> dict[str, Tensor]:
    """Moments, step counts and flags, row by row. A row without a group's state (its P* was frozen, say) has zeros
    and rests.
    """
    held: dict[tuple[str, str], dict[int, dict[str, Tensor]]] = {}  # (group, part) -> run -> tensors
    for number, run in enumerate(runs):
        groups: dict[str, dict[str, Tensor]] = {
            key.removesuffix(".steps_K"): {} for key in run.found.optimizer if key.endswith(".steps_K")
        }
        for key, tensor in run.found.optimizer.items():  # one group's name may begin with another's
            group = max((g for g in groups if key.startswith(f"{g}.")), key=len)
            groups[group][key[len(group) + 1 :]] = tensor
        for group, tensors in groups.items():
            part = _part_of(run, group, tensors)
            if part is None:
                told.append(f"{run.name}: optimizer state of {group}, which is no part's by row, is left out")
            else:
                held.setdefault((group, part), {})[number] = tensors
    out = {}
    for (group, part), by_run in held.items():
        for name, example in next(iter(by_run.values())).items():
            rows = [
                by_run[n][name][k - runs[n].spans[part].start] if n in by_run else torch.zeros_like(example[0])
                for n, k in parts[part]
            ]
            out[f"{group}.{name}"] = torch.stack(rows)
    return out


def _part_of(run: Run, group: str, tensors: dict[str, Tensor]) -> str | None:
    """The part whose rows an optimizer's group moves: as many rows, parameters of these names; of several the one
    that it is named after.
    """
    moved = {name.removesuffix(".first") for name in tensors if name.endswith(".first")}
    fits = [
        part
        for part, span in run.spans.items()
        if all(len(t) == len(span) for t in tensors.values()) and moved <= run.tensors(part).keys()
    ]
    return min(fits, key=lambda part: -len(part) if group.startswith(part) else 0, default=None)
