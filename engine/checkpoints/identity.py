"""What tells one checkpoint from another, by its state.json alone: no tensors are read, so torch is not needed."""

import hashlib
import json
from pathlib import Path
from typing import Any

PROMPTS = "prompts.safetensors"


def identity_of(run_dir: Path) -> str | None:
    """``identity`` of the latest checkpoint by its state.json alone; None where that cannot be read."""
    try:
        return identity(json.loads((run_dir / "latest" / "state.json").read_text()))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def identity(state: dict[str, Any]) -> str:
    """Of a checkpoint with this state.json."""
    return state_sum({"prompts": state["sha256"][PROMPTS], "reused": state["reused"]})


def state_sum(state: dict[str, Any]) -> str:
    """SHA-256 of a record, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()
