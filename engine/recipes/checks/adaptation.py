"""An adaptation against the distillations that it starts from, by their text files."""

from collections.abc import Sequence
from pathlib import Path

from engine.config import SOURCES, RunConfig, expand_or_tell, resolve, value_at
from engine.core import UserError
from engine.recipes.checks.configuration import (
    Corpora,
    backbone_differs,
    backbone_problems,
    is_complete,
    machine_problems,
    required_problems,
    run_dir_problems,
    task_problems,
)
from engine.recipes.checks.run_state import RunState, state_of, unfinished

SHAPE = ("prompt.num_virtual_tokens", "prompt.rank")


def adaptation_problems(config: RunConfig, earlier: Sequence[Path] = (), corpora: Corpora | None = None) -> list[str]:
    """What ``adapt`` can be refused with before torch is imported. Nothing is written.

    Args:
        earlier: run directories that the same study makes before this run. corpora: what it has read of them.
    """
    splits = ["train"]
    if config.adapt.eval_interval or config.lr_sweep.any():
        splits.append("validation")
    used = [key for method, key in SOURCES.items() if method in config.adapt.methods]
    problems = required_problems(config, "adapt.targets", *used)
    problems += backbone_problems(config)
    problems += machine_problems(config)
    changed = run_dir_problems(config, "adapt")
    problems += changed
    if changed or not is_complete(config, "adapt"):  # a finished one reads no corpus any more
        problems += task_problems(config, {"adapt.targets": splits}, corpora)
    for method, key in SOURCES.items():
        if key in used and value_at(config, key):
            folder = expand_or_tell(value_at(config, key), key, problems)
            if folder is not None and folder not in earlier:
                problems += _source_problems(config, method, key, folder)
    return problems


def _source_problems(config: RunConfig, method: str, key: str, folder: Path) -> list[str]:
    if not folder.is_dir():
        return [f"{key}: {folder} does not exist; name the run directory of a distillation"]
    run = state_of(folder)
    if run is None:
        return [f"{key}: {folder} is not a run directory (it has no config.yaml); name that of a distillation"]
    if run.stage not in ("", "distill", "teach", "lr_sweep"):
        return [f"{key}: {folder} is not a distillation but a run of {run.stage}"]
    if not run.completed:
        return [f"{key}: {unfinished(run)}"]
    problems = _shape_problems(config, folder)
    if backbone_differs(config, run.state):
        problems.append(
            f"backbone: {config.backbone} is not the one that {folder} was distilled with; a metaprompt fits its own "
            "backbone only"
        )
    named = [("adapt.init", config.adapt.init.removeprefix("task:"))] if config.adapt.init.startswith("task:") else []
    named += [("adapt.transfer", name) for name in config.adapt.transfer if method == "metaprompt"]
    return problems + _unknown_sources(named, run)


def _unknown_sources(named: Sequence[tuple[str, str]], run: RunState) -> list[str]:
    problems = []
    for key, name in named:
        if run.tasks and name not in run.tasks:
            problems.append(f"{key}: {name!r} is not a source task of {run.folder}; it has {', '.join(run.tasks)}")
    return problems


def _shape_problems(config: RunConfig, folder: Path) -> list[str]:
    try:
        source = resolve(folder / "config.yaml")
    except (UserError, OSError):
        return []
    problems = []
    for key in SHAPE:
        wanted, found = value_at(source, key), value_at(config, key)
        if wanted != found:
            problems.append(f"{key}: {found}, but the metaprompt of {folder} has {wanted}; they must agree")
    return problems
