"""A study as a YAML file: named distillations and adaptations, each a change of a run configuration, over the values of
its axes.

    run_dir: runs/study
    distill: configs/pocket/distill.yaml          # what every distillation starts from
    adapt: configs/pocket/adapt.yaml              # and every adaptation
    distillations:
      metaprompt: {}
      rank: {each: {prompt.rank: [1, 2, 4]}}      # a cell for each value; several axes: each combination
    adaptations:
      few_shot: {source: metaprompt, adapt.shots: [4, 16]}
      rank: {source: rank, prompt.rank: $prompt.rank}   # once for each cell of the distillation; $KEY is that cell's
          value

A cell is a run directory, run_dir/NAME or run_dir/NAME/rank=1. ``each`` may be a list of mappings too, for values that
go together, with a ``name``. ``teachers: NAME`` lets a distillation take those of another one.
"""

import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from engine.config import RunConfig, expand, known_keys, read_yaml, resolve, unknown_key
from engine.core import UserError

NAME = "name"  # in a list of mappings: of the cell
TOP = ("run_dir", "distill", "adapt", "distillations", "adaptations")
SOURCES = {
    "distill": {"teachers": "teach.run"},
    "adapt": {"source": "adapt.source_run", "multitask": "adapt.multitask_run"},
}


@dataclass(frozen=True)
class Cell:
    """One run. ``protocol``: the name it stands under. ``axes``: what tells it from the protocol's others."""

    protocol: str
    mode: str
    axes: dict[str, Any]
    config: RunConfig

    @property
    def run_dir(self) -> Path:
        return expand(self.config.run_dir)

    @property
    def name(self) -> str:
        return "/".join([self.protocol, *([_folder(self.axes)] if self.axes else [])])


def read_study(file: str, overrides: Mapping[str, str]) -> tuple[Path, list[Cell]]:
    """The study's folder and its cells: distillations, then adaptations.

    Args:
        overrides: keys of the run configuration for every cell, as typed; ``run_dir`` is the study's.

    Raises:
        UserError: every unknown key, missing source and impossible value, each with file and name.
    """
    content = read_yaml(file)
    problems = [f"{file}: " + unknown_key(key, TOP) for key in content if key not in TOP]
    problems += [
        f"{file}: {key}: missing; name a run configuration"
        for key in ("distill", "adapt")
        if not isinstance(content.get(key), str)
    ]
    folder = overrides.get("run_dir") or content.get("run_dir")
    if not isinstance(folder, str):
        problems.append(f"{file}: run_dir: missing; name the folder of the study's runs")
    groups = {}
    for group in ("distillations", "adaptations"):
        groups[group] = content.get(group) or {}
        if not isinstance(groups[group], dict) or any(not isinstance(v, dict | None) for v in groups[group].values()):
            problems.append(f"{file}: {group}: expected names, each with keys and values")
            groups[group] = {}
    twice = groups["distillations"].keys() & groups["adaptations"].keys()
    problems += [
        f"{file}: {name}: is a distillation and an adaptation; a run directory holds one" for name in sorted(twice)
    ]
    if problems:
        raise UserError(problems)
    common = {k: v for k, v in overrides.items() if k != "run_dir"}
    reader = _Reader(file, Path(str(folder)), common, problems)
    distilled: dict[str, list[Cell]] = {}
    for name, body in groups["distillations"].items():
        distilled[name] = reader.cells(name, "distill", content["distill"], body or {}, distilled)
    adapted = [
        c
        for name, body in groups["adaptations"].items()
        for c in reader.cells(name, "adapt", content["adapt"], body or {}, distilled)
    ]
    if problems:
        raise UserError(list(dict.fromkeys(problems)))
    return expand(str(folder)), [c for cells in distilled.values() for c in cells] + adapted


@dataclass
class _Reader:
    file: str
    folder: Path
    common: Mapping[str, str]
    problems: list[str]

    def cells(
        self, name: str, mode: str, base: str, body: Mapping[str, Any], distilled: Mapping[str, list[Cell]]
    ) -> list[Cell]:
        if not re.fullmatch(r"[A-Za-z0-9_.+-]+", name):
            self.problems.append(f"{self.file}: {name!r}: is no name for a folder; letters, digits and _ . + - are")
            return []
        allowed = ["each", *SOURCES[mode], *known_keys()]
        unknown = [f"{self.file}: {name}: " + unknown_key(str(key), allowed) for key in body if key not in allowed]
        sources = {word: body[word] for word in SOURCES[mode] if word in body}
        there = ", ".join(distilled)
        unknown += [
            f"{self.file}: {name}: {w}: {s!r} is none of the distillations before it ({there})"
            for w, s in sources.items()
            if s not in distilled
        ]
        if unknown:
            self.problems += unknown
            return []
        out = []
        own = {k: v for k, v in body.items() if k not in ("each", *SOURCES[mode])}
        for starts in itertools.product(*(distilled[str(s)] for s in sources.values())):
            inherited = {k: v for start in starts for k, v in start.axes.items()}
            for found in self._each(name, body.get("each", {})):
                axes = {k: v for k, v in found.items() if k != NAME}
                where = inherited | ({NAME: found[NAME]} if NAME in found else axes)
                runs = {SOURCES[mode][word]: str(start.run_dir) for word, start in zip(sources, starts, strict=True)}
                values = {
                    **runs,
                    **own,
                    **axes,
                    "run_dir": str(self.folder / name / _folder(where) if where else self.folder / name),
                }
                config = self._config(name, base, values, inherited)
                if config is not None:
                    out.append(Cell(name, mode, where, config))
        folders = [c.run_dir for c in out]
        if len(set(folders)) < len(folders):
            self.problems.append(f"{self.file}: {name}: two of its cells are the same")
        return out

    def _each(self, name: str, axes: Any) -> Iterator[dict[str, Any]]:
        known = known_keys()
        alternatives = axes if isinstance(axes, list) else None
        if alternatives is None and isinstance(axes, dict) and all(isinstance(v, list) for v in axes.values()):
            alternatives = [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
        if alternatives is None or any(not isinstance(a, dict) for a in alternatives):
            self.problems.append(
                f"{self.file}: {name}: each: expected keys with lists of values, or a list of mappings"
            )
            return
        unknown = sorted({str(key) for a in alternatives for key in a if key not in (*known, NAME)})
        self.problems += [f"{self.file}: {name}: each: " + unknown_key(key, known) for key in unknown]
        if not unknown:
            yield from alternatives

    def _config(
        self, name: str, base: str, values: Mapping[str, Any], inherited: Mapping[str, Any]
    ) -> RunConfig | None:
        def put(value: Any) -> Any:
            if isinstance(value, list):
                return [put(v) for v in value]
            if isinstance(value, str) and value.startswith("$") and value[1:] in known_keys():
                if value[1:] not in inherited:
                    raise UserError(f"{self.file}: {name}: {value}: its distillation has no axis {value[1:]}")
                return inherited[value[1:]]
            return value

        try:
            return resolve(base, {**{k: _text(put(v)) for k, v in values.items()}, **self.common})
        except UserError as error:
            self.problems += [
                p if p.startswith(self.file) else f"{self.file}: {name}: {p.replace('command line: --', '')}"
                for p in error.problems
            ]
            return None


def _text(value: Any) -> str:
    """As it would be typed behind a flag."""
    if isinstance(value, str):
        return value
    return yaml.safe_dump(value, default_flow_style=True, width=10**9).removesuffix("\n").removesuffix("\n...")


def _folder(axes: Mapping[str, Any]) -> str:
    """A folder's name, of what differs."""
    shown = ",".join(
        (f"{k.rpartition('.')[2]}=" if k != NAME else "") + ("+".join(map(str, v)) if isinstance(v, list) else str(v))
        for k, v in axes.items()
    )
    return re.sub(r"[^A-Za-z0-9_.,=+:-]", "_", shown)
