"""Banks in and out of checkpoints."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engine.checkpoints import checkpoint
from engine.core import UserError
from prompt_modules import DecomposedBank, JoinedBank, LoraBank, SoftPromptBank, layer_name


def bank_of(tensors: dict[str, Tensor], order: Sequence[str], which: str = "best") -> JoinedBank:
    """The bank that a checkpoint's prompts are: each row's best step, or with ``which=''`` its last.

    Args:
        order: the parts' names, in the order of their rows: a file of tensors does not keep it.
    """
    prefix = f"{which}.parts." if which else "parts."
    parts: dict[str, dict[str, Any]] = {}
    for name, tensor in tensors.items():
        if name.startswith(prefix):
            part, _, parameter = name[len(prefix) :].partition(".")
            parts.setdefault(part, {})[parameter] = tensor
    banks: dict[str, Any] = {name: _part(parts[name]) for name in order}
    return JoinedBank(banks, {name: _size(parts[name]) for name in order})


def teachers_of(run_dir: Path, tasks: Sequence[str], wanted: dict[str, Any]) -> tuple[JoinedBank, str]:
    """Teachers of another distillation, in the order of ``tasks``, and what names them.

    Args:
        wanted: hashes of the teachers that this run would train. Data and the list of tasks may differ: each teacher
            learnt from its own task alone.

    Raises:
        UserError: there are none, not of all tasks, or of another backbone or other settings.
    """
    folder = run_dir / "teachers"
    bank, found = load_bank(folder, "teachers")
    names = [row["task"] for row in found.state["rows"]]
    saved = found.state["hashes"]
    problems = []
    for task in tasks:
        if task not in names:
            problems.append(f"teach.run: {run_dir} has no teacher of {task}; it has {', '.join(names)}")
    for key in ("backbone", "layout"):
        if saved[key] != wanted[key]:
            problems.append(f"teach.run: {run_dir}: its teachers have another {key}")
    for section in ("prompt", "teach", "data"):
        before, now = _section(saved, section), _section(wanted, section)
        for key in sorted(before.keys() | now.keys()):
            there, here = before.get(key), now.get(key)
            if there != here:
                problems.append(f"teach.run: {run_dir}: {section}.{key} was {there!r} there, is {here!r} here")
    if problems:
        raise UserError(problems)
    chosen = torch.tensor([names.index(task) for task in tasks])
    part = SoftPromptBank(bank.prompts(chosen).detach())
    return JoinedBank({"teacher": part}, {"teacher": len(tasks)}), f"{found.identity} {' '.join(tasks)}"


def _section(hashes: dict[str, Any], section: str) -> dict[str, Any]:
    """A section of the configuration without its rank, which is of factors, and those come later."""
    content = dict(hashes["config"].get(section, {}))
    content.pop("rank", None)
    return content


def _part(tensors: dict[str, Tensor]) -> DecomposedBank | SoftPromptBank | LoraBank:
    if "cols_KLR" in tensors:
        return DecomposedBank(**tensors)  # type: ignore[arg-type]
    down, up = _of_side(tensors, "down."), _of_side(tensors, "up.")
    if down:
        return LoraBank(tensors["prompts_KLD"], down=down, up=up)
    return SoftPromptBank(**tensors)


def _of_side(tensors: dict[str, Tensor], side: str) -> dict[str, Tensor]:
    """Layer -> LoRA's factors of one side, whose names begin with ``side``."""
    found = {}
    for name, tensor in tensors.items():
        if name.startswith(side):
            found[layer_name(name.removeprefix(side))] = tensor
    return found


def _size(tensors: dict[str, Tensor]) -> int:
    """Rows of a part."""
    if "cols_KLR" in tensors:
        return len(tensors["cols_KLR"])
    return len(tensors["prompts_KLD"])


def part_order(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Names of a bank's parts, of its rows' labels: a variant's rows lie among its method's."""
    return list(dict.fromkeys(row["method"].partition("@")[0] for row in rows))


def load_bank(run_dir: Path, what: str) -> tuple[JoinedBank, checkpoint.Checkpoint]:
    """The best rows of a finished run.

    Raises:
        UserError: there is no finished run of kind ``what`` there.
    """
    found = checkpoint.load(run_dir)
    if found is None or not (run_dir / "COMPLETED").exists():
        raise UserError(f"{run_dir}: holds no finished {what}; run it to its end first")
    return bank_of(found.prompts, part_order(found.state["rows"])), found
