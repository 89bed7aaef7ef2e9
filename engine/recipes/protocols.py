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

from engine.config import RunConfig, expand, expand_or_tell, known_keys, read_yaml, resolve, unknown_key
from engine.core import UserError
from strict_yaml import must_be_one_of

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
        if not self.axes:
            return self.protocol
        return f"{self.protocol}/{_folder(self.axes)}"


def read_study(file: str, overrides: Mapping[str, str]) -> tuple[Path, list[Cell]]:
    """The study's folder and its cells: distillations, then adaptations.

    Args:
        overrides: keys of the run configuration for every cell, as typed; ``run_dir`` is the study's.

    Raises:
        UserError: every unknown key, missing source and impossible value, each with file and name.
    """
    content = read_yaml(file)
    folder = overrides.get("run_dir") or content.get("run_dir")
    problems = _top_level_problems(file, content, folder)
    distillations = _named_cells(file, content, group="distillations", problems=problems)
    adaptations = _named_cells(file, content, group="adaptations", problems=problems)
    for name in sorted(distillations.keys() & adaptations.keys()):
        problems.append(f"{file}: {name}: cannot be both a distillation and an adaptation; a run directory holds one")
    if problems:
        raise UserError(problems)
    common = {key: value for key, value in overrides.items() if key != "run_dir"}
    reader = _Reader(file, Path(str(folder)), common, problems)
    distilled: dict[str, list[Cell]] = {}
    cells: list[Cell] = []
    for name, body in distillations.items():
        distilled[name] = reader.cells(name, "distill", content["distill"], body or {}, distilled)
        cells += distilled[name]
    for name, body in adaptations.items():
        cells += reader.cells(name, "adapt", content["adapt"], body or {}, distilled)
    if problems:
        raise UserError(list(dict.fromkeys(problems)))
    return expand(str(folder)), cells


def _top_level_problems(file: str, content: Mapping[str, Any], folder: Any) -> list[str]:
    """Unknown keys, and what is missing.

    Args:
        folder: of the study's runs, as typed or as the file names it.
    """
    problems: list[str] = []
    for key in content:
        if key not in TOP:  # --help lists a run configuration's keys, not these
            text = unknown_key(key, TOP).replace("see --help", f"keys: {', '.join(TOP)}")
            problems.append(f"{file}: {text}")
    for key in ("distill", "adapt"):
        if not isinstance(content.get(key), str):
            problems.append(f"{file}: {key}: missing; name a run configuration")
    if not isinstance(folder, str):
        problems.append(f"{file}: run_dir: missing; name the folder of the study's runs")
    else:
        expand_or_tell(folder, "run_dir", problems)
    return problems


def _named_cells(file: str, content: Mapping[str, Any], group: str, problems: list[str]) -> dict[str, Any]:
    """The bodies that stand under ``group``, by name; none where it is written otherwise, which is a problem."""
    bodies = content.get(group) or {}
    if not isinstance(bodies, dict) or any(not isinstance(body, dict | None) for body in bodies.values()):
        problems.append(f"{file}: {group}: must be names, each with keys and values")
        return {}
    return bodies


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
            self.problems.append(f"{self.file}: {name!r}: must be a folder name of letters, digits and _ . + -")
            return []
        unknown = self._unknown_words(name, mode, body, distilled)
        if unknown:
            self.problems += unknown
            return []
        keys = {word: key for word, key in SOURCES[mode].items() if word in body}  # of the distillations it starts from
        own = {key: value for key, value in body.items() if key != "each" and key not in keys}
        out = []
        for starts in itertools.product(*(distilled[str(body[word])] for word in keys)):
            runs = {key: str(start.run_dir) for key, start in zip(keys.values(), starts, strict=True)}
            inherited: dict[str, Any] = {}
            for start in starts:
                inherited |= start.axes
            for found in self._each(name, body.get("each", {})):
                axes = {key: value for key, value in found.items() if key != NAME}
                where = inherited | axes
                if NAME in found:
                    where = inherited | {NAME: found[NAME]}
                run_dir = self.folder / name
                if where:
                    run_dir = run_dir / _folder(where)
                values = {**runs, **own, **axes, "run_dir": str(run_dir)}
                config = self._config(name, base, values, inherited)
                if config is not None:
                    out.append(Cell(name, mode, where, config))
        if len({cell.run_dir for cell in out}) < len(out):
            self.problems.append(f"{self.file}: {name}: two of its cells are the same")
        return out

    def _unknown_words(
        self, name: str, mode: str, body: Mapping[str, Any], distilled: Mapping[str, list[Cell]]
    ) -> list[str]:
        """Keys that do not belong in a cell's body, and names of distillations that do not stand before it."""
        allowed = ["each", *SOURCES[mode], *known_keys()]
        problems = []
        for key in body:
            if key not in allowed:
                problems.append(f"{self.file}: {name}: " + unknown_key(str(key), allowed))
        for word in SOURCES[mode]:
            if word in body and body[word] not in distilled:
                text = must_be_one_of(body[word], distilled, "the distillations before it: ")
                problems.append(f"{self.file}: {name}: {word}: {text}")
        return problems

    def _each(self, name: str, axes: Any) -> Iterator[dict[str, Any]]:
        """What each of a protocol's cells changes, from its ``each``."""
        known = known_keys()
        alternatives = _alternatives(axes)
        if alternatives is None:
            self.problems.append(f"{self.file}: {name}: each: must be keys with lists of values, or a list of mappings")
            return
        keys: set[str] = set()
        for alternative in alternatives:
            keys.update(str(key) for key in alternative)
        unknown = sorted(keys.difference(known, [NAME]))
        self.problems += [f"{self.file}: {name}: each: " + unknown_key(key, known) for key in unknown]
        if not unknown:
            yield from alternatives

    def _config(
        self, name: str, base: str, values: Mapping[str, Any], inherited: Mapping[str, Any]
    ) -> RunConfig | None:
        try:
            typed = {key: _text(self._put(name, value, inherited)) for key, value in values.items()}
            return resolve(base, {**typed, **self.common})
        except UserError as error:
            for problem in error.problems:
                if not problem.startswith(self.file) and not self._is_typed(problem):
                    problem = f"{self.file}: {name}: {problem.replace('command line: --', '')}"
                self.problems.append(problem)
            return None

    def _is_typed(self, problem: str) -> bool:
        """Whether a problem is that of a flag, which is the same in every cell."""
        return any(problem.startswith(f"command line: --{key}: ") for key in self.common)

    def _put(self, name: str, value: Any, inherited: Mapping[str, Any]) -> Any:
        """With $KEY replaced by the distillation's value of that axis.

        Raises:
            UserError: it has no such axis.
        """
        if isinstance(value, list):
            return [self._put(name, entry, inherited) for entry in value]
        if isinstance(value, str) and value.startswith("$") and value[1:] in known_keys():
            if value[1:] not in inherited:
                raise UserError(f"{self.file}: {name}: {value}: its distillation has no axis {value[1:]}")
            return inherited[value[1:]]
        return value


def _alternatives(axes: Any) -> list[dict[str, Any]] | None:
    """The changes that an ``each`` lists, or each combination of the values that it lists; None where it does
    neither.
    """
    if isinstance(axes, list):
        if any(not isinstance(alternative, dict) for alternative in axes):
            return None
        return axes
    if not isinstance(axes, dict) or any(not isinstance(values, list) for values in axes.values()):
        return None
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def _text(value: Any) -> str:
    """As it would be typed behind a flag."""
    if isinstance(value, str):
        return value
    return yaml.safe_dump(value, default_flow_style=True, width=10**9).removesuffix("\n").removesuffix("\n...")


def _folder(axes: Mapping[str, Any]) -> str:
    """A folder's name, of what differs."""
    words = []
    for key, value in axes.items():
        shown = "+".join(map(str, value)) if isinstance(value, list) else str(value)
        if key != NAME:
            shown = f"{key.rpartition('.')[2]}={shown}"
        words.append(shown)
    return re.sub(r"[^A-Za-z0-9_.,=+:-]", "_", ",".join(words))
