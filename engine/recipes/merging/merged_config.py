"""The configuration and the hashes of a merged run, and how its rows differ from what that configuration says."""

import copy
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from engine.config import FREE_ON_RESUME, JOINED_BY_MERGE, Rate, RunConfig, flat, value_at
from engine.recipes.merging.prompt_sums import PromptSum
from engine.recipes.merging.rows import Run
from engine.recipes.source_terms import sources_of

SECTIONS = (
    "seed",
    "data",
    "prompt",
    "adapt",
    "lr_sweep",
    "evaluate",
)  # that decide what rows are, or how they are asked


def merged_config(runs: Sequence[Run], output: Path, sums: Sequence[PromptSum]) -> RunConfig:
    """The first run's, with the targets, methods, shots, seeds and cards of all. Rows need not be every combination
    of them.
    """
    config = copy.deepcopy(runs[0].config)
    config.run_dir = str(output)
    for key in JOINED_BY_MERGE:
        section, _, leaf = key.partition(".")
        setattr(value_at(config, section), leaf, _values_of_all(runs, key))
    for s in sums:
        if s.target not in config.adapt.targets:
            config.adapt.targets.append(s.target)
    if any(run.config.adapt.train == "all" for run in runs):
        config.adapt.train = "all"
    return config


def _values_of_all(runs: Sequence[Run], key: str) -> list[Any]:
    """The values of a list in the configuration, of all runs, each once."""
    found: dict[Any, None] = {}
    for run in runs:
        found |= dict.fromkeys(value_at(run.config, key))
    return list(found)


def differences(runs: Sequence[Run], merged: RunConfig) -> list[str]:
    """How rows came about, or were asked, otherwise than the merged configuration says. Without paths: it goes into
    results and model cards.
    """
    kept = flat({section: value for section, value in asdict(merged).items() if section in SECTIONS})
    skipped = {key for key in FREE_ON_RESUME if not key.startswith("evaluate.")}
    skipped |= {*JOINED_BY_MERGE, "adapt.source_run", "adapt.multitask_run", "evaluate.batch_size"}
    rates = _rates(runs)
    out = []
    for run in runs:
        own = flat(asdict(run.config))
        for key, value in kept.items():
            if key not in skipped and own[key] != value:
                out.append(f"{run.name}: {key} is {own[key]!r} there, {value!r} in the merged configuration")
        chosen = run.found.state["hashes"].get("rates", {})
        for key, rate in chosen.items():
            if rate != rates[key]:
                there, earlier = Rate.of(rate), Rate.of(rates[key])
                out.append(f"{run.name}: the learning rate of {key} is {there} there, {earlier} in an earlier run")
        if own["data.root"] != kept["data.root"]:
            out.append(
                f"{run.name}: different data.root than {runs[0].name}; give evaluate a --data.root that has all corpora"
            )
    return out


def _rates(runs: Sequence[Run]) -> dict[str, Any]:
    """What sweeps chose, by method and shots; of several runs the first's."""
    found: dict[str, Any] = {}
    for run in reversed(runs):
        found |= run.found.state["hashes"].get("rates", {})
    return found


def merged_hashes(runs: Sequence[Run], config: RunConfig) -> dict[str, Any]:
    """Of the first run, with what was joined. ``merged``, which no adaptation has, keeps one from going on training
    from here.
    """
    all_hashes = [run.found.state["hashes"] for run in runs]
    out: dict[str, Any] = copy.deepcopy(all_hashes[0])
    for key in (*JOINED_BY_MERGE, "adapt.train"):
        section, _, leaf = key.partition(".")
        out["config"][section][leaf] = value_at(config, key)
    data = list(dict.fromkeys(h["data"] for h in all_hashes))
    out["data"] = data[0]
    if len(data) > 1:
        out["data"] = hashlib.sha256(json.dumps(data).encode()).hexdigest()
    out["sources"] = {}
    for run in runs:
        out["sources"] |= run.sources
    out["rates"] = _rates(runs)
    out["merged"] = [run.found.identity for run in runs]
    return out


def noted_sources(runs: Sequence[Run]) -> dict[str, Any]:
    """What any of the runs knows of the distillations behind their rows: for a method the same one in all runs.

    Returns:
        source_tasks: method -> record; no such key where nothing is known.
    """
    noted: dict[str, Any] = {}
    for run in runs:
        for method, record in sources_of(run.found.state, run.config).items():
            if record:
                noted[method] = record
    if not noted:
        return {}
    return {"source_tasks": noted}
