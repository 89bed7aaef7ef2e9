"""What a report tells of a run, gathered from its directory. Numbers, names and settings only: never
``predictions/``, never a path of the machine.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from engine.config import METHODS, expand
from engine.core import UserError
from engine.evaluation import average, by_seed, cells_of, student

ORDER = (*METHODS, "teacher")
"""Of methods in tables and legends; variants stand behind their method, others last."""

REFERENCES = {
    "n2c2_2022_sdoh_entities": ("F1", 0.871),
    "n2c2_2022_sdoh_relations": ("F1", 0.835),
    "uf_opioid_entities": ("F1", 0.914),
    "uf_opioid_relations": ("F1", 0.893),
    "headqa": ("accuracy", 0.644),
    "medbullets": ("accuracy", 0.689),
    "scinli": ("F1", 0.865),
    "radnli": ("F1", 0.823),
}
"""Task -> what the published work is said to reach, its best backbone (read from a third party's table: secondary)."""
_ABSOLUTE = re.compile(r"(?<![\w.~$…/-])(?:~|\$\w+)?/(?:[^\s'\",:;()\[\]{}/]+/)*([^\s'\",:;()\[\]{}/]+)/?")
_TRANSFER = re.compile(r"^metaprompt@task:(.+)$")


@dataclass(frozen=True)
class Run:
    """name: as its user wrote it, without a home folder. results: results.json. curves: sub-run ('' is the run) ->
    logged steps.

    config: the resolved configuration, scrubbed; empty where the directory holds none. source: the distillation that
    its metaprompt is from, resolved; None where it starts from none.
    """

    folder: Path
    name: str
    results: dict[str, Any]
    curves: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    source: Path | None = None

    @property
    def tasks(self) -> dict[str, Any]:
        tasks: dict[str, Any] = self.results["tasks"]
        return tasks

    @property
    def role(self) -> str:
        """target, or source where nothing is a target."""
        roles = {task["role"] for task in self.tasks.values()}
        return "target" if "target" in roles else "source"

    def averages(self) -> dict[str, dict[str, float]]:
        """METHOD -> SHOTS -> mean over the targets as evaluated; of a distillation over its sources."""
        found: dict[str, dict[str, float]] = self.results["average"]
        if self.role == "source":
            found = average(self.tasks, "source")
        return {m: found[m] for m in sorted(found, key=method_order)}

    def columns(self, transfer: bool = False) -> list[tuple[str, str]]:
        """Every (method, shots) that is there, in order; those of the transfer matrix, or all others."""
        found = [c for c in cells_of(self.tasks.values()) if bool(source_of(c[0])) == transfer]
        return sorted(found, key=_order)

    def methods(self) -> list[str]:
        """Those of the columns, in order."""
        return list(dict.fromkeys(method for method, _ in self.columns()))

    def half_interval(self, method: str, shots: str) -> float | None:
        """Half the 95 % interval over seeds of an average over the targets; None of one seed or none."""
        seeds = by_seed(self.tasks, method, shots)
        return student(list(seeds.values()))[1] if seeds else None


def cell_of(task: Mapping[str, Any], method: str, shots: str) -> dict[str, Any] | None:
    """What was scored of a task; None where nothing was."""
    found: dict[str, Any] | None = task["methods"].get(method, {}).get(shots)
    return found


def mean_of(task: Mapping[str, Any], method: str, shots: str) -> float | None:
    """The mean score of a task; None where nothing was scored."""
    mean: float | None = (cell_of(task, method, shots) or {}).get("mean")
    return mean


def gather(runs: Sequence[Path], names: Sequence[str] = ()) -> list[Run]:
    """Read every run.

    Args:
        names: how the user wrote them; default: the paths.

    Raises:
        UserError: a run has no results.json, or it cannot be read; all at once.
    """
    problems, found = [], []
    for run, name in zip(runs, names or list(map(str, runs)), strict=True):
        try:
            results = json.loads((run / "results.json").read_text())
            if isinstance(results, dict) and {"tasks", "average", "trainable", "backbone"} <= results.keys():
                config = read_configuration(run)
                source = started_from(config, "adapt", "source_run")
                found.append(Run(run, without_home(name), results, curves_of(run), scrubbed(config), source))
            else:
                problems.append(f"--runs: {run / 'results.json'}: is not a results file; evaluate the run again")
        except FileNotFoundError:
            problems.append(f"--runs: {run} has no results.json; run `python train.py evaluate --run {run}` first")
        except (OSError, ValueError) as error:
            problems.append(
                f"--runs: {run / 'results.json'}: not readable ({type(error).__name__}); evaluate the run again"
            )
    if problems:
        raise UserError(problems)
    return found


def source_of(method: str) -> str:
    """The source task of a transfer variant, ``metaprompt@task:SOURCE``; else nothing."""
    found = _TRANSFER.match(method)
    return found[1] if found else ""


def shots_value(shots: str) -> float:
    return float("inf") if shots == "full" else float(shots)


def without_home(path: str) -> str:
    """A home folder is not named: ``~`` in its place."""
    home = str(Path.home())
    if home != "/" and (path == home or path.startswith(home + "/")):
        path = "~" + path[len(home) :]
    return re.sub(r"^/(?:home|Users)/[^/]+", "~", path)


def scrubbed(value: Any) -> Any:
    """Settings without the machine's folders: an absolute path keeps its last part, ``…/name``; words around it
    stay.
    """
    if isinstance(value, dict):
        return {k: scrubbed(v) for k, v in value.items()}
    if isinstance(value, list):
        return [scrubbed(v) for v in value]
    if isinstance(value, str):
        return _ABSOLUTE.sub(r"…/\1", value)
    return value


def method_order(method: str) -> tuple[int, str]:
    base = method.partition("@")[0]
    return ORDER.index(base) if base in ORDER else len(ORDER), method


def _order(column: tuple[str, str]) -> tuple[int, str, float]:
    return *method_order(column[0]), shots_value(column[1])


def read_configuration(run: Path) -> dict[str, Any]:
    """config.yaml as it stands, with the machine's folders; empty where there is none."""
    try:
        found = yaml.safe_load((run / "config.yaml").read_text())
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return found if isinstance(found, dict) else {}


def started_from(config: Mapping[str, Any], section: str, key: str) -> Path | None:
    """The run directory that a key of the configuration names, resolved; None where it names none."""
    values = config.get(section)
    named = values.get(key) if isinstance(values, dict) else None
    try:
        return expand(named).resolve() if named and isinstance(named, str) else None
    except UserError:  # it has a variable that is not set here
        return None


def curves_of(run: Path) -> dict[str, list[dict[str, Any]]]:
    """metrics.jsonl of the run, its teachers and its sweeps."""
    found: dict[str, list[dict[str, Any]]] = {}
    for folder in (run, run / "teachers", run / "lr_sweep", *sorted((run / "lr_sweep").glob("*/"))):
        if (folder / "metrics.jsonl").is_file():
            lines = (folder / "metrics.jsonl").read_text(errors="replace").splitlines()
            steps = [step for step in map(_step, lines) if step]
            if steps:
                found["" if folder == run else str(folder.relative_to(run))] = steps
    return found


def _step(line: str) -> dict[str, Any] | None:
    """One logged step; a line torn by a kill is none."""
    try:
        found = json.loads(line)
    except ValueError:
        return None
    if isinstance(found, dict) and isinstance(found.get("step"), int):
        return found
    return None


def reference_rows(tasks: Mapping[str, Any]) -> list[tuple[str, str, float]]:
    """(task, metric, score) of those tasks that bear a published name; invented ``pocket_`` tasks never do."""
    return [(name, *REFERENCES[name]) for name in tasks if name in REFERENCES]
