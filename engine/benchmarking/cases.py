"""What one call of ``benchmark`` measures: its flags, checked, as a list of cases."""

import itertools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from engine.benchmarking import choices
from engine.benchmarking.choices import for_steps, mode_of
from engine.config import (
    RunConfig,
    expand,
    known_keys,
    new_value,
    read_config,
    read_switch,
    resolve,
    schema_keys,
    unknown_key,
)
from engine.core import UserError
from engine.data import Invention, invention_of
from engine.distributed import ROOM, room_for
from strict_yaml import must_be_one_of

# without `auto`, which measures one that it chooses
SHARDINGS = tuple(name for name in get_args(schema_keys()["sharding"].type) if name != "auto")
PROFILED = 2  # steps of a trace, after the measured ones


@dataclass(frozen=True)
class Case:
    """One configuration to measure. ``label``: what tells it from the others, as flags; ``swept``: of them those of
    --sweep.
    """

    label: str
    config: RunConfig
    swept: dict[str, Any]


@dataclass(frozen=True)
class Request:
    """steps: measured ones, after ``warmup``. invented: None for the run's own data. beside: a peer to time too."""

    mode: str
    steps: int
    warmup: int
    output: Path
    cases: list[Case]
    invented: Invention | None = None
    profile: bool = False
    alternate: bool = True
    compare: Path | None = None
    compare_anyway: bool = False
    beside: str = ""

    @property
    def all_steps(self) -> int:
        return self.warmup + self.steps + PROFILED * self.profile


def request_of(file: str, own: dict[str, str], overrides: dict[str, str]) -> Request:
    """From flags as typed: the mode's own, and keys of the configuration.

    Raises:
        UserError: everything wrong with them and with the configuration.
    """
    problems: list[str] = []
    steps, warmup = _count(own, "steps", 0, 1, problems), _count(own, "warmup", 2, 0, problems)
    profile = read_switch(own.get("profile", "False"), "command line: --profile", problems)
    alternate = read_switch(own.get("alternate", "True"), "command line: --alternate", problems)
    compare_anyway = read_switch(own.get("compare_anyway", "False"), "command line: --compare_anyway", problems)
    axes = _axes(own, overrides, problems)
    base, of_config = read_config(file, overrides)
    problems += of_config
    if base is None:
        raise UserError(problems + choices.form_problems(own))
    mode, invented = "", None
    try:
        mode = mode_of(own.get("mode", ""), base)
    except UserError as error:
        problems += error.problems
    try:
        if "invented" in own:
            invented = invention_of(own["invented"], base.data.max_length)
    except UserError as error:
        problems += error.problems
    compare, output = _files(own, expand(base.run_dir), problems)
    cases: list[Case] = []
    if not problems:
        cases = _cases(file, overrides, axes, warmup + steps + PROFILED, problems)
    if "beside" in own:
        configs = [case.config for case in cases]
        if not cases and "sharding" not in axes:
            configs = [base]
        problems += choices.problems_of(own["beside"], mode, configs)
    if problems:
        raise UserError(problems)
    return Request(
        mode,
        steps,
        warmup,
        output,
        cases,
        invented=invented,
        profile=profile,
        alternate=alternate,
        compare=compare,
        compare_anyway=compare_anyway,
        beside=own.get("beside", ""),
    )


def _files(own: dict[str, str], run_dir: Path, problems: list[str]) -> tuple[Path | None, Path]:
    """An earlier benchmark.json to compare with, if one is named, and the output folder."""
    compare = None
    if own.get("compare"):
        compare = expand(own["compare"])
        if not compare.is_file():
            problems.append(f"command line: --compare: {compare} is not a file; name an earlier benchmark.json")
    output = run_dir.with_name(run_dir.name + "-benchmark")
    if own.get("output"):
        output = expand(own["output"])
    problems += room_for("command line: --output", output, ROOM)
    return compare, output


def _cases(
    file: str, overrides: dict[str, str], axes: dict[str, list[str]], steps: int, problems: list[str]
) -> list[Case]:
    cases = []
    for values in itertools.product(*axes.values()):
        changed = dict(zip(axes, values, strict=True))
        settings = overrides | changed
        if "sharding" in changed:  # no DeepSpeed file decides it
            settings["deepspeed"] = ""
        try:
            config = resolve(file, settings)
        except UserError as error:
            problems += error.problems
            continue
        label = " ".join(f"{key}={value}" for key, value in changed.items())
        cases.append(Case(label, for_steps(replace(config), steps), changed))
    problems[:] = dict.fromkeys(problems)
    return cases


def _axes(own: dict[str, str], overrides: dict[str, str], problems: list[str]) -> dict[str, list[str]]:
    axes: dict[str, list[str]] = {}
    if own.get("shardings"):
        axes["sharding"] = _listed(own["shardings"])
        for sharding in axes["sharding"]:
            if sharding not in SHARDINGS:
                renamed = new_value(sharding, SHARDINGS)
                text = f"{sharding!r} was renamed to {renamed!r}" if renamed else must_be_one_of(sharding, SHARDINGS)
                problems.append(f"command line: --shardings: {text}")
    for axis in filter(None, own.get("sweep", "").split(";")):
        key, _, values = axis.partition("=")
        key, values = key.strip(), values.strip()
        if key not in known_keys():
            problems.append(f"command line: --sweep: {unknown_key(key, known_keys())}")
        elif key in axes or key in overrides:
            problems.append(f"command line: --sweep: duplicate {key}; remove its flag")
        elif not values:
            problems.append(f"command line: --sweep: must be KEY=VALUE,VALUE; got {axis.strip()!r}")
        else:
            axes[key] = _listed(values)
    for key, tried in axes.items():
        if len(set(tried)) < len(tried):
            problems.append(f"command line: {key}: duplicate value in {','.join(tried)}")
    return axes


def _listed(text: str) -> list[str]:
    return [value.strip() for value in text.split(",")]


def _count(own: dict[str, str], name: str, default: int, least: int, problems: list[str]) -> int:
    text = own.get(name, str(default))
    if not text.strip().isdecimal() or int(text) < least:
        problems.append(f"command line: --{name}: must be a whole number >= {least}; got {text!r}")
        return max(default, least)
    return int(text)
