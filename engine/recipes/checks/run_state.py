"""How far a run has come, by the text files of its directory: tensors are not read, so torch is not needed."""

import json
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.config import RunConfig, expand, resolve
from engine.core import UserError

STEPS = {"teach": "teach.steps", "distill": "distill.steps", "adapt": "adapt.steps"}
PARTS = ("", "lr_sweep", "teachers")  # folders of a run that a stage writes to, the last stage first


@dataclass(frozen=True)
class RunState:
    """Of a run directory.

    Args:
        stage: of the newest checkpoint; empty without one. step: that it is of, counted from 1. total: steps of the
            stage, 0 where they are not known. state: the checkpoint's own record, of the run itself.
    """

    folder: Path
    completed: bool
    stage: str = ""
    step: int = 0
    total: int = 0
    state: dict[str, Any] = field(default_factory=dict)

    @property
    def tasks(self) -> list[str]:
        """Tasks that the run has rows of."""
        return list(dict.fromkeys(str(row["task"]) for row in self.state.get("rows", [])))


def state_of(folder: Path) -> RunState | None:
    """None where the folder is not a run directory: nothing that a run writes at its start is in it."""
    config = _config_file(folder)
    if config is None:
        return None
    for part in PARTS:
        found = _read_state(folder / part)
        if found:
            stage = str(found.get("stage", ""))
            own = {} if part else found
            completed = not part and (folder / "COMPLETED").exists()
            return RunState(folder, completed, stage, int(found.get("step", 0)), _total(config, stage), own)
    return RunState(folder, completed=False)


def unfinished(run: RunState) -> str:
    """What is said of a run that was stopped: the step that it reached, and the command that continues it."""
    if not run.stage:
        reached = "has no checkpoint yet"
    else:
        of = f" of {run.total}" if run.total else ""
        reached = f"is not finished: {run.stage} reached step {run.step}{of}"
    return f"{run.folder} {reached}; continue it with: {continuing(run)}"


def continuing(run: RunState) -> str:
    """The command that continues a run, from the configuration that it left in its directory."""
    file = _config_file(run.folder)
    assert file is not None
    config = _resolved(file)
    words = ["python", "train.py", _mode(run, config), f"--config={file}"]
    if config is not None and expand(config.run_dir).resolve() != run.folder.resolve():
        words.append(f"--run_dir={run.folder}")
    if config is not None and config.overwrite:  # of its start; now it would begin again
        words.append("--overwrite=false")
    return shlex.join(words)


def _mode(run: RunState, config: RunConfig | None) -> str:
    if run.stage in ("distill", "adapt"):
        return run.stage
    sources = config is not None and config.distill.sources and not config.adapt.targets
    return "distill" if run.stage == "teach" or sources else "adapt"


def _config_file(folder: Path) -> Path | None:
    for part in PARTS:
        if (folder / part / "config.yaml").is_file():
            return folder / part / "config.yaml"
    return None


def _read_state(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / "latest" / "state.json").read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _total(file: Path, stage: str) -> int:
    config = _resolved(file)
    if config is None or stage not in STEPS:
        return 0
    section, _, leaf = STEPS[stage].partition(".")
    return int(getattr(getattr(config, section), leaf))


def _resolved(file: Path) -> RunConfig | None:
    try:
        return resolve(file)
    except UserError:
        return None
