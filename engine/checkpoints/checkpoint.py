"""Trainable-only checkpoints: the whole bank in one small file, whatever the number of ranks or the sharding.

    checkpoints/step_00000100/{prompts.safetensors, optimizer.safetensors, state.json}
    checkpoints/reused/                          see content_store.py
    latest -> checkpoints/step_00000100

Written to a temporary folder, synced, renamed: a killed process leaves the previous checkpoint whole. Prompts are
derived from the corpus and may leak it: folders are 0700, files 0600.
"""

import hashlib
import json
import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from engine.checkpoints import content_store
from engine.checkpoints.identity import PROMPTS, identity, state_sum
from engine.checkpoints.run_lock import RunLock
from engine.core import UserError, new_partial, sync

FILES = (PROMPTS, "optimizer.safetensors")


@dataclass(frozen=True)
class Checkpoint:
    """prompts: bank parameters. optimizer: its flat state. state: step, cursors, hashes, history. reused: by kind, what
    changes seldom; once loaded it stands among the prompts too.
    """

    prompts: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    state: dict[str, Any]
    reused: dict[str, dict[str, Tensor]] = field(default_factory=dict)

    @property
    def identity(self) -> str:
        """SHA-256 over the prompts of a loaded checkpoint, each row's best included."""
        return identity(self.state)


class Saver:
    """Writes checkpoints off the step's path, one at a time: what a step costs is the copy that it takes. Rank 0's."""

    def __init__(self, run_dir: Path, keep: int, run_lock: RunLock | None = None):
        self.run_dir, self.keep, self.run_lock = run_dir, keep, run_lock
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None

    def start(self, step: int, checkpoint: Checkpoint) -> None:
        """Copy, and write while training goes on. Waits for the one before it."""
        self.wait()
        state = json.loads(json.dumps(checkpoint.state))
        seldom = {kind: _copied(tensors) for kind, tensors in checkpoint.reused.items()}
        frozen = Checkpoint(_copied(checkpoint.prompts), _copied(checkpoint.optimizer), state, seldom)
        self._thread = threading.Thread(target=self._write, args=(step, frozen), name="checkpoint")
        self._thread.start()

    def _write(self, step: int, checkpoint: Checkpoint) -> None:
        try:
            save(self.run_dir, step, checkpoint, self.keep, self.run_lock)
        except Exception as error:
            self._error = error

    @property
    def failed(self) -> bool:
        return self._error is not None

    def wait(self) -> None:
        """Until the last one is written.

        Raises:
            OSError, RunLockLost: it could not be.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            raise self._error


def _copied(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {n: t.detach().to("cpu", copy=True) for n, t in tensors.items()}


def save(run_dir: Path, step: int, checkpoint: Checkpoint, keep: int, run_lock: RunLock | None = None) -> Path:
    """Write a checkpoint, point ``latest`` at it and keep it and the ``keep - 1`` before it. Rank 0 only.

    Raises:
        OSError: it cannot be written (a full disk, say); the previous checkpoint is whole.
        RunLockLost: another job has opened the directory since; nothing of what is visible there has changed.
    """
    try:
        return _save(run_dir / "checkpoints", run_dir / "latest", step, checkpoint, keep, run_lock)
    except (OSError, SafetensorError) as error:
        raise OSError(
            f"checkpoint of step {step} in {run_dir}: {error}; the previous one is intact. Make room and start again"
        ) from None


def _save(folder: Path, latest: Path, step: int, checkpoint: Checkpoint, keep: int, run_lock: RunLock | None) -> Path:
    if run_lock is not None:
        run_lock.check()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    final = folder / f"step_{step:08d}"
    for left in folder.glob(".step_*.partial"):  # of a process that was killed as it wrote
        shutil.rmtree(left, ignore_errors=True)
    partial = new_partial(final, folder=True)
    for name, tensors in zip(FILES, (checkpoint.prompts, checkpoint.optimizer), strict=True):
        save_file({n: t.detach().cpu().contiguous() for n, t in tensors.items()}, partial / name)
    names = {kind: content_store.write(folder, kind, tensors) for kind, tensors in checkpoint.reused.items()}
    state = {
        **checkpoint.state,
        "step": step,
        "reused": names,
        "sha256": {name: _sha256(partial / name) for name in FILES},
    }
    state = json.loads(json.dumps(state))  # as it will be read
    (partial / "state.json").write_text(json.dumps({**state, "sha256_state": state_sum(state)}, indent=1))
    for file in partial.iterdir():
        file.chmod(0o600)
        sync(file)
    sync(partial)
    if run_lock is not None:
        run_lock.check()
    shutil.rmtree(final, ignore_errors=True)
    partial.rename(final)
    _point(latest, Path("checkpoints") / final.name)
    sync(folder)
    steps = sorted(p for p in folder.iterdir() if p.name.startswith("step_"))
    here = steps.index(final)
    for old in steps[: max(here + 1 - keep, 0)] + steps[here + 1 :]:  # later steps are of a run that was started again
        shutil.rmtree(old)
    _forget(folder)
    return final


def _forget(folder: Path) -> None:
    """What no checkpoint names any more. One that cannot be read may name anything."""
    names: set[str] = set()
    for step in folder.glob("step_*"):
        try:
            names.update(json.loads((step / "state.json").read_text())["reused"].values())
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return
    content_store.forget(folder, names)


def load(run_dir: Path, pass_over: Callable[[str], None] | None = None) -> Checkpoint | None:
    """The latest checkpoint of a run directory, or None where there is none.

    Args:
        pass_over: take the newest whole one, and tell this of every damaged one before it. None: the latest, or an
            error.

    Raises:
        UserError: it is damaged (a checksum differs, a file is missing), or all are.
    """
    latest = run_dir / "latest"
    newest, older = _newest_and_older(run_dir)
    damage = []
    if older and newest is None:  # removed by somebody, or the very first was renamed and not yet pointed at
        damage.append(f"{latest} is missing, but there are checkpoints")
    candidates = []
    if newest is not None:
        candidates.append(newest)
    if pass_over is not None:
        candidates += older
    for folder in candidates:
        try:
            found = _read(folder, run_dir / "checkpoints")
        except _Damaged as problem:
            damage.append(f"checkpoint {folder}: {problem}")
            continue
        if pass_over is not None:
            for told in damage:
                pass_over(f"WARNING {told}; continuing from {folder.name}, which is intact")
        return found
    if damage:
        raise UserError([f"{problem}; point {latest} at an older one, or give --overwrite=true" for problem in damage])
    return None


def _newest_and_older(run_dir: Path) -> tuple[Path | None, list[Path]]:
    """What ``latest`` points at, and the checkpoints before it, the newest first; without ``latest`` all there are."""
    latest = run_dir / "latest"
    there = sorted((run_dir / "checkpoints").glob("step_*"), reverse=True)
    if not latest.exists() and not latest.is_symlink():  # a link to nothing is damage
        return None, there
    newest = latest.resolve()
    # one beyond ``latest`` was renamed and not yet pointed at, or belongs to a run that was started again
    return newest, [folder for folder in there if folder.name < newest.name]


class _Damaged(ValueError):
    """What is wrong with a checkpoint."""


def _read(folder: Path, checkpoints: Path) -> Checkpoint:
    try:
        state = json.loads((folder / "state.json").read_text())
        body = {k: v for k, v in state.items() if k != "sha256_state"}
        if state["sha256_state"] != state_sum(body):
            raise _Damaged("state.json is damaged (its checksum differs)")
        for name in FILES:
            if _sha256(folder / name) != state["sha256"][name]:
                raise _Damaged(f"{name} is damaged (its checksum differs)")
        prompts, seldom = load_file(folder / FILES[0]), {}
        for kind, name in body["reused"].items():
            found = content_store.read(checkpoints, name)
            if found is None:
                raise _Damaged(f"both copies of {content_store.FOLDER}/{name} are damaged or missing")
            seldom[kind] = found
            prompts |= found
        return Checkpoint(prompts, load_file(folder / FILES[1]), body, seldom)
    except (OSError, KeyError, TypeError, AttributeError, ValueError, SafetensorError) as error:
        if isinstance(error, _Damaged):
            raise
        raise _Damaged(f"incomplete ({type(error).__name__})") from None


def _point(link: Path, target: Path) -> None:
    temporary = link.with_name(f".{link.name}.partial")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    temporary.replace(link)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
