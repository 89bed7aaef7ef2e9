"""A study's cells, each checked as the run that it is."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from engine.core import UserError
from engine.recipes.checks.adaptation import adaptation_problems
from engine.recipes.checks.configuration import distillation_problems
from engine.recipes.protocols import read_study


def study_problems(file: str, only: Sequence[str], overrides: Mapping[str, str]) -> list[str]:
    """What ``study`` can be refused with before torch is imported. Nothing is written."""
    try:
        _, cells = read_study(file, overrides)
    except UserError as error:
        return list(error.problems)
    names = list(dict.fromkeys(cell.protocol for cell in cells))
    problems = [f"--only: {name!r}: must be one of {', '.join(names)}" for name in only if name not in names]
    earlier: list[Path] = []
    for cell in cells:
        if not (cell.run_dir / "COMPLETED").exists():
            check = distillation_problems if cell.mode == "distill" else adaptation_problems
            problems += check(cell.config, earlier)
        earlier.append(cell.run_dir)
    return list(dict.fromkeys(problems))
