"""Device hours of whole stages, as metrics.jsonl has them: of a run, and of the distillations made before it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.reporting.blocks import Block, Fold, Table, Text
from engine.reporting.data import Run, curves_of, read_configuration, started_from, without_home
from engine.reporting.words import device_hours, hours, listed
from strict_yaml import counted

DEVICE = "A device is one GPU, or one process on a machine without GPUs."
STAGES = {"teachers": "teachers", "learning rates": "lr_sweep", "distillation": ""}  # in words -> folder of the run


@dataclass(frozen=True)
class Distillation:
    """What a distillation cost; its scores are not needed.

    Args:
        folder: resolved. name: as its user wrote it. curves: as those of a run. teachers_of: the folder of the
            distillation whose teachers it took, resolved; None where it taught its own.
    """

    folder: Path
    name: str
    curves: Mapping[str, Sequence[Mapping[str, Any]]]
    teachers_of: Path | None = None

    def spent(self) -> dict[str, float]:
        """Stage in words -> device hours, those above 0."""
        found = {stage: spent_in(self.curves, folder) for stage, folder in STAGES.items()}
        return {stage: value for stage, value in found.items() if value}


def distillations(runs: Sequence[Run], others: Mapping[Path, str]) -> list[Distillation]:
    """Those among the reported runs, then the others, which need not have been evaluated; each once.

    Args:
        others: folder -> name, as its user wrote it.
    """
    names = {run.folder: run.name for run in runs if run.role == "source"}
    names |= {folder: without_home(name) for folder, name in others.items() if folder not in names}
    out: dict[Path, Distillation] = {}
    for folder, name in names.items():
        teachers_of = started_from(read_configuration(folder), "teach", "run")
        out.setdefault(folder.resolve(), Distillation(folder.resolve(), name, curves_of(folder), teachers_of))
    return list(out.values())


def spent_in(curves: Mapping[str, Sequence[Mapping[str, Any]]], folder: str) -> float:
    """Device hours of the steps logged in a folder of a run ('' is the run itself) and in those within it."""
    total = 0.0
    for name, steps in curves.items():
        if name == folder or (folder and name.startswith(f"{folder}/")):
            total += sum(step.get("device_seconds") or 0.0 for step in steps)
    return total / 3600


def adaptation_hours(run: Run) -> float:
    """Of all adaptations of a run and of choosing their learning rates."""
    return spent_in(run.curves, "") + spent_in(run.curves, "lr_sweep")


def cost_words(run: Run, made: Sequence[Distillation]) -> list[str]:
    """Sentences on the stages of a run, and on the distillation that its metaprompt is from."""
    said = []
    spent, sweep = spent_in(run.curves, ""), spent_in(run.curves, "lr_sweep")
    if spent:
        said.append(f"All adaptations of this run together took {device_hours(spent)}.")
    if sweep:
        said.append(f"Choosing learning rates took {hours(sweep)} more.")
    for one in made:
        if one.folder == run.source and one.spent():
            said.append(f"The metaprompt was made once before, for all tasks, in {one.name}: {_parts(one, made)}.")
    return [*said, DEVICE] if said else []


def distillation_costs(made: Sequence[Distillation]) -> list[Block]:
    """Of the distillations behind several runs, each named: one in a sentence, more in a table that is folded."""
    recorded = [one for one in made if one.spent()]
    if not recorded:
        return []
    if len(recorded) == 1:
        one = recorded[0]
        return [Text(f"Cost of the distillation {one.name}, made once: {_parts(one, made)}. {DEVICE}", "small")]
    total = sum(sum(one.spent().values()) for one in recorded)
    said = f"{counted(len(recorded), 'distillation')} before these runs took {device_hours(total)} together."
    stages = [stage for stage in STAGES if any(stage in one.spent() for one in recorded)]
    rows = []
    for one in recorded:
        spent = one.spent()
        cells = [hours(spent[stage]) if stage in spent else "" for stage in stages]
        rows.append([one.name, *cells, hours(sum(spent.values())), _teachers_of(one, made)])
    head = ["run", *stages, "together", "teachers of"]
    if not any(row[-1] for row in rows):
        head, rows = head[:-1], [row[:-1] for row in rows]
    table = Table(head, rows, 1)
    return [Text(f"{said} {DEVICE}", "small"), Fold("Device-hours of every distillation", [table])]


def _parts(one: Distillation, made: Sequence[Distillation]) -> str:
    *earlier, (last, value) = one.spent().items()
    parts = [*(f"{stage} {hours(spent)}" for stage, spent in earlier), f"{last} {device_hours(value)}"]
    taken = _teachers_of(one, made)
    return listed(parts) + (f"; its teachers are those of {taken}" if taken else "")


def _teachers_of(one: Distillation, made: Sequence[Distillation]) -> str:
    """Name of the distillation whose teachers it took; empty where it taught its own."""
    if one.teachers_of is None or "teachers" in one.spent():
        return ""
    return next((other.name for other in made if other.folder == one.teachers_of), one.teachers_of.name)
