"""Commands that read finished runs, checked by the runs' text files before torch is imported."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from clinical_tasks import TaskCard
from engine.config import FREE_IN_EVALUATION, UNTRAINED, RunConfig, expand_or_tell, read_config
from engine.core import UserError, nearest_existing
from engine.data import load_cards, unknown_task
from engine.distributed import room_for
from engine.evaluation import answer_output_problems, names_folder
from engine.recipes.checks.configuration import (
    backbone_differs,
    backbone_problems,
    machine_problems,
    task_problems,
)
from engine.recipes.checks.run_state import RunState, state_of, unfinished
from engine.recipes.exporting import FORMATS
from engine.recipes.merging import sum_problems
from strict_yaml import must_be_one_of


def config_of_run(folder: Path, overrides: Mapping[str, str], mode: str) -> tuple[RunConfig | None, list[str]]:
    """A run's configuration, with what a command that only reads the run may change, and all problems.

    The configuration is None where the folder is not a run directory.
    """
    problems = []
    for key in overrides:
        if not key.startswith(("evaluate.", "log.")) and key not in FREE_IN_EVALUATION:
            free = ", ".join(FREE_IN_EVALUATION)
            problems.append(f"command line: --{key}: belongs to the run; {mode} can change {free}, evaluate.*, log.*")
    if not (folder / "config.yaml").is_file():
        told = " ".join(problems)
        problems += read_config("", {key: text for key, text in overrides.items() if f"--{key}: " not in told})[1]
        return None, [f"--run: {folder} is not a run directory (it has no config.yaml)", *problems]
    allowed = {key: text for key, text in overrides.items() if f"--{key}: " not in " ".join(problems)}
    # the run's own `overwrite` was of its training
    of_run = {"overwrite": "false", **allowed, "run_dir": str(folder)}
    config, found = read_config(folder / "config.yaml", of_run)
    return config, problems + found


def evaluation_problems(run: str, tasks: Sequence[str], overrides: Mapping[str, str]) -> list[str]:
    """What ``evaluate`` can be refused with before torch is imported. Nothing is written."""
    problems: list[str] = []
    found, config = _run_and_config(run, overrides, "evaluate", problems)
    if found is None or config is None:
        return problems
    for task in tasks:
        if found.tasks and task not in found.tasks:
            problems.append(f"--tasks: {task!r} is not in {found.folder}; it has {', '.join(found.tasks)}")
    scored = [task for task in found.tasks if task in tasks or not tasks]
    key = "adapt.targets" if found.stage == "adapt" else "distill.sources"
    here = set(config.adapt.targets if found.stage == "adapt" else config.distill.tasks)
    problems += _backbone_problems(config, found)
    problems += task_problems(
        _only(config, [task for task in scored if task in here]), {key: evaluated_splits(config, found.stage)}
    )
    return problems + machine_problems(config, ("--run", "data.cache"))


def evaluated_splits(config: RunConfig, stage: str) -> list[str]:
    """Splits of each task that ``evaluate`` reads."""
    if stage == "adapt" and "in_context" in config.adapt.methods:
        return [config.evaluate.split, "train"]
    return [config.evaluate.split]


def prediction_problems(
    run: str, row: Sequence[str], source: str, output: str, overrides: Mapping[str, str]
) -> list[str]:
    """What ``predict`` can be refused with before torch is imported. Nothing is written.

    Args:
        row: task, method, shots and seed as typed; empty where the program chooses.
    """
    problems: list[str] = []
    found, config = _run_and_config(run, overrides, "predict", problems)
    notes = expand_or_tell(source, "--input", problems)
    if notes is not None and not notes.exists():
        problems.append(f"--input: {notes} does not exist; name a .txt, a folder of them, or a .jsonl")
    into = expand_or_tell(output, "--output", problems)
    card = None if config is None else _card_of(config, row[0], found, problems)
    if into is not None and nearest_existing(into.parent).is_dir():  # below a file: told of with the flags
        overwrite = config is None or config.overwrite
        problems += answer_output_problems(into, names_folder(output, into), card=card, overwrite=overwrite)
    if found is not None:
        problems += _row_problems(found, row)
    if config is not None:
        problems += _backbone_problems(config, found)
        problems += machine_problems(config, ())
    return problems


def _card_of(config: RunConfig, task: str, found: RunState | None, problems: list[str]) -> TaskCard | None:
    """The task's card. That the run has no such task is told of elsewhere."""
    try:
        cards = load_cards(config.data)
    except UserError as error:
        problems += error.problems
        return None
    if task not in cards and found is not None and task in found.tasks:
        problems.append(unknown_task(task, cards))
    return cards.get(task)


def export_problems(run: str, fmt: str, output: str, tasks: Sequence[str]) -> list[str]:
    """What ``export`` can be refused with before torch is imported. Nothing is written."""
    problems = []
    if fmt not in FORMATS:
        problems.append(f"--format: {must_be_one_of(fmt, FORMATS)}")
    into = expand_or_tell(output, "--output", problems)
    if into is not None:
        problems += new_folder_problems(into)
    found, config = _run_and_config(run, {}, "export", problems)
    if found is not None:
        for task in tasks:
            if found.tasks and task not in found.tasks:
                problems.append(f"--tasks: {task!r} is not in {found.folder}; it has {', '.join(found.tasks)}")
    if config is not None:
        problems += backbone_problems(config)
    return problems


def merge_problems(runs: Sequence[str], output: str, sums: Sequence[str], sum_of: str) -> list[str]:
    """What ``merge`` can be refused with before torch is imported. Nothing is written."""
    problems = [] if runs else ["--runs: names no run directory"]
    into = expand_or_tell(output, "--output", problems)
    if into is not None:
        problems += new_folder_problems(into)
    if len(runs) == 1 and not sums:
        problems.append("--runs: nothing to merge; name several run directories, or a --sum")
    seen: list[Path] = []
    for run in runs:
        folder = expand_or_tell(run, "--runs", problems)
        if folder is None:
            continue
        if folder.resolve() in seen:
            problems.append(f"--runs: duplicate run directory {folder}; name each once")
        seen.append(folder.resolve())
        problems += _adaptation_problems(folder)
    return list(dict.fromkeys(problems + sum_problems(sums, sum_of)))


def _adaptation_problems(folder: Path) -> list[str]:
    found = state_of(folder)
    if found is None:
        return [f"--runs: {folder} is not a run directory (it has no config.yaml)"]
    if not found.completed:
        return [f"--runs: {unfinished(found)}"]
    if found.stage and found.stage != "adapt":
        return [f"--runs: {folder} is not an adaptation but a run of mode {found.stage}"]
    return []


def report_problems(runs: Sequence[str], output: str) -> list[str]:
    """What ``report`` can be refused with before torch is imported. Nothing is written."""
    problems = [] if runs else ["--runs: names no run directory"]
    for run in runs:
        folder = expand_or_tell(run, "--runs", problems)
        if folder is not None:
            problems += _result_problems(folder)
    if runs and not output:
        into = expand_or_tell(runs[0], "--output", [])
        problems += [] if into is None else room_for("command line: --output", into, 0)
    elif output:
        into = expand_or_tell(output, "--output", problems)
        problems += [] if into is None else room_for("command line: --output", into, 0)
    return problems


def _result_problems(folder: Path) -> list[str]:
    """What is wrong with a run's results, or why there are none yet."""
    file = folder / "results.json"
    if not folder.is_dir():
        return [f"--runs: {folder} has no results.json: the folder does not exist"]
    if not file.is_file():
        found = state_of(folder)
        if found is not None and not found.completed:
            return [f"--runs: {folder} has no results.json; {unfinished(found)}"]
        return [f"--runs: {folder} has no results.json; run `python train.py evaluate --run {folder}` first"]
    try:
        if isinstance(json.loads(file.read_text()), dict):
            return []
        return [f"--runs: {file}: is not a results file; evaluate the run again"]
    except (OSError, ValueError) as error:
        return [f"--runs: {file}: not readable ({type(error).__name__}); evaluate the run again"]


def new_folder_problems(output: Path) -> list[str]:
    """What keeps ``--output`` from being a new folder."""
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        return [f"--output: {output} already exists; name a new folder"]
    return room_for("command line: --output", output, 0)


def _run_and_config(
    run: str, overrides: Mapping[str, str], mode: str, problems: list[str]
) -> tuple[RunState | None, RunConfig | None]:
    """A finished run's state and configuration; None, and a problem, where it is not one."""
    folder = expand_or_tell(run, "--run", problems)
    if folder is None:  # told; the keys are checked all the same
        _, of_keys = config_of_run(Path(os.devnull), overrides, mode)
        problems += [problem for problem in of_keys if not problem.startswith("--run: ")]
        return None, None
    found = state_of(folder)
    if found is None or (folder / "config.yaml").is_file():
        config, of_config = config_of_run(folder, overrides, mode)
        problems += of_config
    else:  # stopped before the last stage began
        config = None
    if found is not None and not found.completed:
        problems.append(f"--run: {unfinished(found)}")
    return found, config


def _backbone_problems(config: RunConfig, found: RunState | None) -> list[str]:
    """What is wrong with the backbone's card, or that it is another one than the run's."""
    problems = backbone_problems(config)
    if found is not None and not problems and backbone_differs(config, found.state):
        problems.append(f"backbone: {config.backbone} is not the one that {found.folder} was trained with")
    return problems


def _rows_of(run: RunState) -> list[dict[str, Any]]:
    """Task, method, shots and seed of each prompt; a distillation's own teachers are among them."""
    rows = list(run.state.get("rows", []))
    teachers = None if run.stage == "adapt" else state_of(run.folder / "teachers")
    return rows + (list(teachers.state.get("rows", [])) if teachers else [])


def _row_problems(run: RunState, row: Sequence[str]) -> list[str]:
    """Whether a run has a row of this task, method, number of shots and seed."""
    task, method, shots, seed = row
    rows = _rows_of(run)
    if not rows:
        return []
    if task not in run.tasks:
        return [f"--task: {task!r} is not in {run.folder}; it has {', '.join(run.tasks)}"]
    if not method or method in UNTRAINED:  # which one is chosen, and what an untrained one has, is seen later
        return []
    of_task = [r for r in rows if r["task"] == task]
    for r in of_task:
        if method == r["method"] and shots in ("", str(r["shots"])) and seed in ("", str(r["seed"])):
            return []
    there = ", ".join(f"{r['method']} {r['shots']} {r['seed']}" for r in of_task)
    wanted = f"{method} {shots or '*'} {seed or '*'}"
    return [f"--method, --shots, --seed: {run.folder} has no row {wanted} of {task}; it has {there}"]


def _only(config: RunConfig, tasks: Sequence[str]) -> RunConfig:
    """The configuration with these tasks alone: others' files need not be there."""
    return replace(
        config,
        distill=replace(config.distill, sources=list(tasks), without=[]),
        adapt=replace(config.adapt, targets=list(tasks)),
    )
