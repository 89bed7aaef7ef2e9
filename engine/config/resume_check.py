"""What a checkpoint came from, against what this run is: configuration, data, backbone."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from engine.config.schema import FREE_ON_RESUME, RunConfig, known_keys
from engine.core import UserError


def compared(config: RunConfig, sections: Sequence[str]) -> dict[str, Any]:
    """What a checkpoint depends on of a configuration: keys without a section, and those of the named sections."""
    found = {}
    for key, value in asdict(config).items():
        if key not in FREE_ON_RESUME and (not isinstance(value, dict) or key in sections):
            found[key] = value
    for dotted in FREE_ON_RESUME:
        section, _, leaf = dotted.rpartition(".")
        if section in found:
            found[section].pop(leaf, None)
    found.pop("backbone")
    return found


def check_hashes(saved: dict[str, Any], now: dict[str, Any], run_dir: Path, accept: bool = False) -> list[str]:
    """What differs, where that is accepted.

    Raises:
        UserError: anything differs, and it is not.
    """
    flat_saved, flat_now = flat(saved), flat(now)
    # of a release that did not know the key: it did what the default does
    for key, (_, default) in known_keys().items():
        if f"config.{key}" in flat_now and f"config.{key}" not in flat_saved:
            flat_saved[f"config.{key}"] = json.loads(json.dumps(default))
    differing = [k for k in sorted(flat_saved.keys() | flat_now.keys()) if flat_saved.get(k) != flat_now.get(k)]
    told = [f"{k}: the checkpoint has {flat_saved.get(k)!r}, this run {flat_now.get(k)!r}" for k in differing]
    if told and not accept:
        remedy = "put it back, or give --overwrite=true or another run_dir (or --accept_changes=true: go on anyway)"
        raise UserError([f"{run_dir}: {line}; {remedy}" for line in told])
    return told


def flat(value: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested keys with dots between them, values as JSON gives them back."""
    out: dict[str, Any] = {}
    for key, inner in value.items():
        if isinstance(inner, dict):
            out |= flat(inner, f"{prefix}{key}.")
        else:
            out[prefix + key] = json.loads(json.dumps(inner))
    return out
