"""Optimizer state of several runs, row by row: moments, step counts and flags."""

from collections.abc import Sequence

import torch
from torch import Tensor

from engine.recipes.merging.run import Entry, Run

COUNTS = ".steps_K"  # every group of an optimizer's state has a tensor with this ending


def joined_optimizer(runs: Sequence[Run], parts: dict[str, list[Entry]], told: list[str]) -> dict[str, Tensor]:
    """State of the rows of ``parts``. A row without a group's state (its P* was frozen, say) has zeros and rests.

    Args:
        told: gets what was left out.
    """
    held: dict[tuple[str, str], dict[int, dict[str, Tensor]]] = {}  # (group, part) -> run -> tensors
    for number, run in enumerate(runs):
        for group, tensors in _groups(run).items():
            part = _part_of(run, group, tensors)
            if part is None:
                told.append(f"{run.name}: optimizer state of {group}, which is not stored by row, is left out")
            else:
                held.setdefault((group, part), {})[number] = tensors
    out = {}
    for (group, part), by_run in held.items():
        example = next(iter(by_run.values()))
        for name in example:
            rows = []
            for n, k in parts[part]:
                if n in by_run:
                    rows.append(by_run[n][name][k - runs[n].spans[part].start])
                else:
                    rows.append(torch.zeros_like(example[name][0]))
            out[f"{group}.{name}"] = torch.stack(rows)
    return out


def _groups(run: Run) -> dict[str, dict[str, Tensor]]:
    """A run's optimizer state by group."""
    groups: dict[str, dict[str, Tensor]] = {}
    for key in run.found.optimizer:
        if key.endswith(COUNTS):
            groups[key.removesuffix(COUNTS)] = {}
    for key, tensor in run.found.optimizer.items():
        group = max((g for g in groups if key.startswith(f"{g}.")), key=len)  # one's name may begin with another's
        groups[group][key[len(group) + 1 :]] = tensor
    return groups


def _part_of(run: Run, group: str, tensors: dict[str, Tensor]) -> str | None:
    """The part whose rows an optimizer's group moves: as many rows, parameters of these names; of several the one
    that it is named after.
    """
    moved = {name.removesuffix(".first") for name in tensors if name.endswith(".first")}
    lengths = {len(tensor) for tensor in tensors.values()}
    fits = []
    for part, span in run.spans.items():
        if lengths == {len(span)} and moved <= run.tensors(part).keys():
            fits.append(part)
    named_after = [part for part in fits if group.startswith(part)]
    if named_after:
        return max(named_after, key=len)
    return next(iter(fits), None)
