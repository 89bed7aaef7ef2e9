"""Trainable-only checkpoints: the whole bank in one small file, whatever the number of ranks or the placement.

    checkpoints/step_00000100/{prompts.safetensors, optimizer.safetensors, state.json}      latest -> checkpoints/step_00000100

Written to a temporary folder, synced, renamed: a killed process leaves the previous checkpoint whole. Prompts are derived from
the corpus and may leak it: folders are 0700, files 0600.
"""

import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from engine.errors import UserError

FILES = ("prompts.safetensors", "optimizer.safetensors")


@dataclass(frozen=True)
class Checkpoint:
    """prompts: bank parameters (``best.*``: each row's best). optimizer: its flat state. state: step, cursors, hashes, history."""

    prompts: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    state: dict[str, Any]


def save(run_dir: Path, step: int, checkpoint: Checkpoint, keep: int) -> Path:
    """Write a checkpoint, point ``latest`` at it and keep it and the ``keep - 1`` before it. Rank 0 only.

    Raises:
        OSError: it cannot be written (a full disk, say); the previous checkpoint is whole.
    """
    try:
        return _save(run_dir / "checkpoints", run_dir / "latest", step, checkpoint, keep)
    except (OSError, SafetensorError) as error:
        raise OSError(f"checkpoint of step {step} in {run_dir}: {error}; the previous one is whole, start again once there is room") from None


def _save(folder: Path, latest: Path, step: int, checkpoint: Checkpoint, keep: int) -> Path:
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    final = folder / f"step_{step:08d}"
    partial = folder / f".step_{step:08d}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(mode=0o700)
    save_file({n: t.detach().cpu().contiguous() for n, t in checkpoint.prompts.items()}, partial / FILES[0])
    save_file({n: t.detach().cpu().contiguous() for n, t in checkpoint.optimizer.items()}, partial / FILES[1])
    state = {**checkpoint.state, "step": step, "sha256": {name: _sha256(partial / name) for name in FILES}}
    (partial / "state.json").write_text(json.dumps(state, indent=1))
    for file in partial.iterdir():
        file.chmod(0o600)
        _sync(file)
    _sync(partial)
    shutil.rmtree(final, ignore_errors=True)
    partial.rename(final)
    _point(latest, Path("checkpoints") / final.name)
    _sync(folder)
    steps = sorted(p for p in folder.iterdir() if p.name.startswith("step_"))
    here = steps.index(final)
    for old in steps[: max(here + 1 - keep, 0)] + steps[here + 1 :]:  # later steps are of a run that was started again
        shutil.rmtree(old)
    return final


def load(run_dir: Path) -> Checkpoint | None:
    """The latest checkpoint of a run directory, or None where there is none.

    Raises:
        UserError: it is damaged (a checksum differs or a file is missing).
    """
    latest = run_dir / "latest"
    if not latest.exists() and not latest.is_symlink():  # a link to nothing is damage
        return None
    folder = latest.resolve()
    try:
        state = json.loads((folder / "state.json").read_text())
        for name in FILES:
            if _sha256(folder / name) != state["sha256"][name]:
                raise UserError(f"checkpoint {folder / name}: damaged (its checksum differs); point {latest} at an older one, or give --fresh=true")
        return Checkpoint(load_file(folder / FILES[0]), load_file(folder / FILES[1]), state)
    except (OSError, KeyError, json.JSONDecodeError) as error:
        raise UserError(f"checkpoint {folder}: incomplete ({type(error).__name__}); point {latest} at an older one, or give --fresh=true") from None


def _point(link: Path, target: Path) -> None:
    temporary = link.with_name(f".{link.name}.partial")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    temporary.replace(link)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
