"""A study's cells, each checked as the run that it is."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from engine.config import at_line, key_lines, read_yaml
from engine.core import UserError
from engine.distributed import room_for
from engine.recipes.checks.adaptation import adaptation_problems
from engine.recipes.checks.configuration import Corpora, distillation_problems, task_problems
from engine.recipes.checks.finished import evaluated_splits
from engine.recipes.protocols import Cell, read_study
from engine.recipes.study import needed_cells, state_of
from strict_yaml import must_be_one_of


def study_problems(file: str, only: Sequence[str], overrides: Mapping[str, str]) -> list[str]:
    """What ``study`` can be refused with before torch is imported. Nothing is written."""
    try:
        folder, cells = read_study(file, overrides)
    except UserError as error:
        return list(error.problems)
    names = list(dict.fromkeys(cell.protocol for cell in cells))
    asked = [name for name in only if name in names]
    problems = [f"--only: {must_be_one_of(name, names)}" for name in only if name not in names]
    of_folder = room_for("run_dir", folder, 0)
    problems += of_folder
    if only and not asked:  # no name at all would ask for every cell
        return problems
    corpora, origin = Corpora(), _origins(file, overrides)
    earlier: list[Path] = []
    for cell in needed_cells(cells, asked):
        found = [origin(cell.mode, problem) for problem in _cell_problems(cell, earlier, corpora)]
        # what is wrong with the study's folder is wrong with every cell's in it
        problems += [line for line in found if not (of_folder and line.startswith("run_dir: "))]
        earlier.append(cell.run_dir)
    return list(dict.fromkeys(problems))


def _cell_problems(cell: Cell, earlier: Sequence[Path], corpora: Corpora) -> list[str]:
    """Of training a cell and, where it is an adaptation without scores, of the evaluation after it."""
    if cell.mode == "distill":
        return distillation_problems(cell.config, earlier, corpora)
    problems = adaptation_problems(cell.config, earlier, corpora)
    if cell.config.overwrite or state_of(cell) != "done":
        problems += task_problems(cell.config, {"adapt.targets": evaluated_splits(cell.config, "adapt")}, corpora)
    return problems


def _origins(file: str, overrides: Mapping[str, str]) -> Callable[[str, str], str]:
    """(mode of a cell, problem) -> the problem, with the file of that mode that its key stands in."""
    content = read_yaml(file)
    lines = {mode: key_lines(content[mode]) for mode in ("distill", "adapt")}

    def origin(mode: str, problem: str) -> str:
        key = problem.partition(": ")[0]
        if key in overrides or key not in lines[mode]:
            return problem
        return at_line(problem, content[mode], key, lines[mode])

    return origin
