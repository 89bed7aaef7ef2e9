"""``study``: every cell of a protocol file, one after another in this job: distil, adapt, evaluate; then one report.

A cell is an ordinary run directory. What is finished is passed over, what was cut off goes on, so that a study takes as
many sittings as it needs; any cell can be run alone by its own config.yaml.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from engine import checkpoints, distributed, telemetry
from engine.config import to_yaml
from engine.core import UserError, without_next_steps, write_atomic
from engine.distributed import room_for
from engine.recipes.adapt import adapt
from engine.recipes.distill import distill
from engine.recipes.finished_runs import evaluate, report
from engine.recipes.protocols import Cell, read_study
from strict_yaml import must_be_one_of


def run_study(file: str, only: Sequence[str], overrides: Mapping[str, str], plan_only: bool = False) -> None:
    """Run the cells of the named protocols (all of them, with none named) and of what they start from.

    Raises:
        UserError: the file is wrong, ``only`` names what it does not have, or its folder cannot be written to; before
            anything starts.
    """
    folder, cells = read_study(file, overrides)
    names = list(dict.fromkeys(c.protocol for c in cells))
    unknown = [name for name in only if name not in names]
    if unknown:
        raise UserError([f"--only: {must_be_one_of(name, names)}" for name in unknown])
    if not plan_only:
        refused = room_for("run_dir", folder, 0)
        if refused:
            raise UserError(refused)
    chosen = needed_cells(cells, only)
    is_main_process = distributed.dist_env().rank == 0
    if is_main_process and not plan_only:
        _tell(folder, file, chosen)
    for number, cell in enumerate(chosen, 1):
        if is_main_process:
            print(f"study: {cell.mode} {cell.name}, {number} of {len(chosen)}: {state_of(cell)}", flush=True)
        if not plan_only:
            with without_next_steps():
                _run(cell)
    adapted = [c for c in chosen if c.mode == "adapt"]
    if plan_only or not is_main_process or not adapted:
        return
    distilled = [c.config.run_dir for c in chosen if c.mode == "distill"]
    report([c.config.run_dir for c in adapted], str(folder), distillations=distilled)


def _run(cell: Cell) -> None:
    """What of the cell is not done yet: train, and evaluate an adaptation."""
    {"distill": distill, "adapt": adapt}[cell.mode](cell.config)
    if cell.mode == "adapt" and state_of(cell) != "done":
        with telemetry.exit_on_signal():
            evaluate(cell.config.run_dir)


def state_of(cell: Cell) -> str:
    """``done``, ``to be evaluated``, ``begun`` or ``to do``."""
    if not (cell.run_dir / "COMPLETED").exists():
        if (cell.run_dir / "latest").exists():
            return "begun"
        return "to do"
    if cell.mode == "distill" or _scored(cell):
        return "done"
    return "to be evaluated"


def _scored(cell: Cell) -> bool:
    """Whether results.json holds every target, of the checkpoint that is there now (a run may have gone on under
    accepted changes).
    """
    try:
        results = json.loads((cell.run_dir / "results.json").read_text())
        return (
            results["checkpoint"] == checkpoints.identity_of(cell.run_dir)
            and set(cell.config.adapt.targets) <= results["tasks"].keys()
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _tell(folder: Path, file: str, cells: Sequence[Cell]) -> None:
    """study.json: which run is which cell, those of other protocol files that share the folder too."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = folder / "study.json"
    told = [{"file": file, **_told(c, folder)} for c in cells]
    known = {c["run"] for c in told}
    others = []
    if path.exists():
        others = [c for c in json.loads(path.read_text())["cells"] if c["run"] not in known]
    write_atomic(path, json.dumps({"cells": others + told}, indent=1) + "\n")


def needed_cells(cells: Sequence[Cell], only: Sequence[str]) -> list[Cell]:
    """The chosen ones, behind the distillations that they start from."""
    chosen = [c for c in cells if not only or c.protocol in only]
    wanted = {c.config.run_dir for c in chosen}
    for c in reversed(cells):  # whatever a cell starts from stands before it
        if c.config.run_dir in wanted:
            wanted.update(_starts_of(c))
    return [c for c in cells if c.config.run_dir in wanted]


def _starts_of(cell: Cell) -> list[str]:
    """Run directories of the distillations that a cell starts from."""
    starts = [cell.config.teach.run]
    if cell.mode == "adapt":
        starts = [cell.config.adapt.source_run, cell.config.adapt.multitask_run]
    return [run_dir for run_dir in starts if run_dir]


def _told(cell: Cell, folder: Path) -> dict[str, Any]:
    run = cell.run_dir
    if run.is_relative_to(folder):
        run = run.relative_to(folder)
    return {
        "protocol": cell.protocol,
        "mode": cell.mode,
        "axes": cell.axes,
        "run": str(run),
        "config": to_yaml(cell.config),
    }
