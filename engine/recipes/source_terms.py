"""The source tasks behind adapted rows, and their terms: prompts derive from what their start was distilled from."""

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from clinical_tasks import TaskCard
from engine import checkpoints
from engine.config import SOURCES, RunConfig, expand, resolve, value_at
from engine.core import UserError
from engine.data import load_cards

# Method -> the configuration's key of the distillation that its rows start from.
TERMS = ("licence", "access", "citation")

# tasks: of each its name and TERMS ("" where no card of it is known). outside_teachers: its teachers were, or may have
# been, adapters that were trained elsewhere.
Record = dict[str, Any]


def terms(tasks: Sequence[str], cards: Mapping[str, TaskCard]) -> list[dict[str, str]]:
    """Of each task its name (``task``) and ``TERMS``, which are empty where there is no card of it."""
    found = []
    for task in tasks:
        card = cards.get(task)
        known = {key: getattr(card, key, "") for key in TERMS}
        found.append({"task": task, **known})
    return found


def source_record(folder: Path, tasks: Sequence[str], cards: Mapping[str, TaskCard]) -> Record:
    """What a run that starts from a distillation notes of it.

    Args:
        folder: the distillation's. tasks: its source tasks. cards: of the run that starts from it; they count for tasks
            of which the distillation's own cards are not there any more.
    """
    config = _config(folder)
    known = dict(cards)
    with contextlib.suppress(UserError):
        if config is not None:
            known |= load_cards(config.data)
    return {"tasks": terms(tasks, known), "outside_teachers": outside_teachers(config)}


def outside_teachers(config: RunConfig | None) -> bool:
    """Whether a distillation's teachers were trained elsewhere, or in a run that cannot be read any more (None)."""
    seen: set[str] = set()
    while config is not None:
        if not (config.distill.lambda_kl or config.distill.lambda_hidden):
            return False
        further = config.teach.run
        if not further or further in seen:
            return bool(config.teach.adapters)
        seen.add(further)
        config = _config(further)
    return True


def sources_of(state: Mapping[str, Any], config: RunConfig) -> dict[str, Record | None]:
    """Of an adaptation, by method, what its rows start from.

    As noted when it was adapted, else by the distillation's directory. None: neither is there, or the directory holds
    another distillation by now. Of other runs nothing.
    """
    if state["stage"] != "adapt":
        return {}
    methods = dict.fromkeys(row["method"].partition("@")[0] for row in state["rows"])
    noted, identities = state.get("source_tasks", {}), state["hashes"].get("sources", {})
    found: dict[str, Record | None] = {}
    for method in methods:
        if method in SOURCES:
            found[method] = noted.get(method) or _by_directory(config, SOURCES[method], identities.get(method))
    return found


def _by_directory(config: RunConfig, key: str, identity: str | None) -> Record | None:
    if not value_at(config, key) or identity is None:
        return None
    try:
        folder = expand(value_at(config, key))
        found = checkpoints.load(folder)
        cards = load_cards(config.data)
    except (UserError, OSError):
        return None
    if found is None or found.identity != identity or "rows" not in found.state:
        return None
    return source_record(folder, [row["task"] for row in found.state["rows"]], cards)


def _config(folder: str | Path) -> RunConfig | None:
    try:
        path = expand(str(folder))
        return resolve(path / "config.yaml", {"run_dir": str(path)})
    except (UserError, OSError):
        return None
