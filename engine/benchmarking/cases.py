"""What one call of ``benchmark`` measures: its flags, checked, as a list of cases."""

import itertools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from engine.benchmarking import peft_beside
from engine.benchmarking.stage import for_steps, mode_of
from engine.config import RunConfig, expand, known_keys, read_switch, resolve, unknown_key
from engine.core import UserError
from engine.data import Invention, invention_of
from engine.distributed import ROOM, SHARDINGS, room_for

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
    switches = {
        name: read_switch(own.get(name, str(default)), f"command line: --{name}", problems)
        for name, default in (("profile", False), ("alternate", True), ("compare_anyway", False))
    }
    axes = _axes(own, overrides, problems)
    try:
        base = resolve(file, overrides)
    except UserError as error:
        raise UserError([*problems, *error.problems]) from None
    mode, invented = "", None
    for check in ("mode", "invented"):
        try:
            if check == "mode":
                mode = mode_of(own.get("mode", ""), base)
            elif "invented" in own:
                invented = invention_of(own["invented"], base.data.max_length)
        except UserError as error:
            problems += error.problems
    old = expand(own["compare"]) if own.get("compare") else None
    if old is not None and not old.is_file():
        problems.append(f"command line: --compare: {old} is no file; name an earlier benchmark.json")
    run_dir = expand(base.run_dir)
    output = expand(own["output"]) if own.get("output") else run_dir.with_name(run_dir.name + "-benchmark")
    problems += room_for("command line: --output", output, ROOM)
    cases = [] if problems else _cases(file, overrides, axes, warmup + steps + PROFILED, problems)
    if "beside" in own:
        configs = [case.config for case in cases] or ([] if "sharding" in axes else [base])
        problems += peft_beside.problems_of(own["beside"], mode, configs)
    if problems:
        raise UserError(problems)
    return Request(
        mode,
        steps,
        warmup,
        output,
        cases,
        invented,
        switches["profile"],
        switches["alternate"],
        old,
        switches["compare_anyway"],
        own.get("beside", ""),
    )


def _cases(
    file: str, overrides: dict[str, str], axes: dict[str, list[str]], steps: int, problems: list[str]
) -> list[Case]:
    cases = []
    for values in itertools.product(*axes.values()):
        changed = dict(zip(axes, values, strict=True))
        base = {k: v for k, v in overrides.items() if not (k == "deepspeed" and "sharding" in changed)}
        try:
            config = resolve(file, base | changed | ({"deepspeed": ""} if "sharding" in changed else {}))
        except UserError as error:
            problems += error.problems
            continue
        cases.append(Case(" ".join(f"{k}={v}" for k, v in changed.items()), for_steps(replace(config), steps), changed))
    problems[:] = dict.fromkeys(problems)
    return cases


def _axes(own: dict[str, str], overrides: dict[str, str], problems: list[str]) -> dict[str, list[str]]:
    axes: dict[str, list[str]] = {}
    if own.get("shardings"):
        axes["sharding"] = [p.strip() for p in own["shardings"].split(",")]
        problems += [
            f"command line: --shardings: {p!r} is none of {', '.join(SHARDINGS)}"
            for p in axes["sharding"]
            if p not in SHARDINGS
        ]
    for axis in filter(None, own.get("sweep", "").split(";")):
        key, _, values = (part.strip() for part in axis.partition("="))
        if key not in known_keys():
            problems.append(f"command line: --sweep: {unknown_key(key, known_keys())}")
        elif key in axes or key in overrides:
            problems.append(f"command line: --sweep: {key} stands twice; take its flag away")
        elif not values:
            problems.append(f"command line: --sweep: {axis.strip()!r} is no KEY=VALUE,VALUE")
        else:
            axes[key] = [v.strip() for v in values.split(",")]
    for key, tried in axes.items():
        if len(set(tried)) < len(tried):
            problems.append(f"command line: {key}: a value stands twice in {','.join(tried)}")
    return axes


def _count(own: dict[str, str], name: str, default: int, least: int, problems: list[str]) -> int:
    text = own.get(name, str(default))
    if not text.strip().isdecimal() or int(text) < least:
        problems.append(f"command line: --{name}: {text!r} is no whole number from {least} up")
        return max(default, least)
    return int(text)
