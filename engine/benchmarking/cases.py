"""What one call of ``benchmark`` measures: its flags, checked, as a list of cases."""

import itertools
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, get_args

from backbones import BackboneError, load_backbone_card
from engine.benchmarking import choices
from engine.benchmarking.choices import for_steps
from engine.benchmarking.compare import read_old
from engine.config import (
    NOT_IN_STEP,
    RunConfig,
    expand_or_tell,
    flat,
    known_keys,
    new_value,
    read_config,
    read_switch,
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
    request, problems = read_request(file, own, overrides)
    if request is None or problems:
        raise UserError(problems)
    return request


def read_request(file: str, own: dict[str, str], overrides: dict[str, str]) -> tuple[Request | None, list[str]]:
    """What ``request_of`` reads, and every problem: later checks can go on with what is right.

    A wrong flag has its default's effect. None where no configuration can be read.
    """
    problems = _empty(own)
    steps, warmup = _count(own, "steps", 0, 1, problems), _count(own, "warmup", 2, 0, problems)
    profile = read_switch(own.get("profile", "False"), "command line: --profile", problems)
    alternate = read_switch(own.get("alternate", "True"), "command line: --alternate", problems)
    anyway = read_switch(own.get("compare_anyway", "False"), "command line: --compare_anyway", problems)
    if anyway and "compare" not in own:
        fix = "name an earlier benchmark.json in --compare, or leave it out"
        problems.append(f"command line: --compare_anyway: has no effect without --compare; {fix}")
    axes = _axes(own, overrides, problems)
    base, of_config = read_config(file, overrides)
    problems += of_config
    if base is None:
        return None, problems + choices.form_problems(own)
    mode = own.get("mode") or choices.main_mode(base)
    problems += choices.mode_problems(mode, base)
    invented = None
    try:
        if "invented" in own:
            invented = invention_of(own["invented"], base.data.max_length)
    except UserError as error:
        problems += error.problems
    cases = _cases(file, overrides, axes, warmup + steps + PROFILED, problems)
    if "beside" in own:
        known = axes.get("sharding") != []  # else nobody can tell which one is meant
        problems += choices.problems_of(own["beside"], mode, [case.config for case in cases] if known else [])
    compare, output = _folder(own.get("compare", ""), "command line: --compare", problems), _output(own, base, problems)
    request = Request(
        mode,
        steps,
        warmup,
        output,
        cases,
        invented=invented,
        profile=profile,
        alternate=alternate,
        compare=compare,
        compare_anyway=anyway,
        beside=own.get("beside", ""),
    )
    problems += _comparison_problems(request, compare_cases=not problems)
    return request, list(dict.fromkeys(problems))


def asked_of(request: Request, case: Case, backbone: str) -> dict[str, Any]:
    """What decides a measurement as far as a configuration tells; two that are compared must share it.

    Args:
        backbone: its name.
    """
    rows = ""
    if request.invented is not None:
        rows = f"{request.invented.context},{request.invented.answer},{request.invented.rows}"
    return {
        "mode": request.mode,
        "case": case.label,
        "backbone": backbone,
        "invented": rows,
        "config": {key: value for key, value in flat(asdict(case.config)).items() if key not in NOT_IN_STEP},
    }


def _comparison_problems(request: Request, compare_cases: bool) -> list[str]:
    """What is wrong with the earlier benchmark.json, and where its cases differ: nobody should wait for that."""
    if request.compare is None:
        return []
    try:
        old = read_old(request.compare)
        names = [load_backbone_card(case.config.backbone).name for case in request.cases] if compare_cases else []
    except UserError as error:
        return error.problems
    except BackboneError:  # told of elsewhere
        return []
    asked = [asked_of(request, case, name) for case, name in zip(request.cases, names, strict=False)]
    return old.setting_problems(asked, request.compare_anyway)


def _empty(own: dict[str, str]) -> list[str]:
    out = []
    for name in ("mode", "shardings", "sweep", "compare", "output"):
        if name in own and not own[name].strip():
            out.append(f"command line: --{name}: is empty; give it a value, or leave it out")
    return out


def _output(own: dict[str, str], base: RunConfig, problems: list[str]) -> Path:
    """The output folder; that of the run with -benchmark behind, unless one is named."""
    if own.get("output"):
        output = _folder(own["output"], "command line: --output", problems)
    else:
        run_dir = _folder(base.run_dir, "run_dir", problems)
        output = run_dir and run_dir.parent / f"{run_dir.name}-benchmark"
    if output is None:
        return Path()
    problems += room_for("command line: --output", output, ROOM)
    return output


def _folder(path: str, key: str, problems: list[str]) -> Path | None:
    """A path with its variables replaced; None where there is none, or a variable is not set."""
    return expand_or_tell(path, key, problems) if path.strip() else None


def _cases(
    file: str, overrides: dict[str, str], axes: dict[str, list[str]], steps: int, problems: list[str]
) -> list[Case]:
    """Those whose configuration can be read, a wrong key with its default."""
    tried = {key: values for key, values in axes.items() if values}
    cases = []
    for values in itertools.product(*tried.values()):
        changed = dict(zip(tried, values, strict=True))
        settings = overrides | changed
        if "sharding" in changed:  # no DeepSpeed file decides it
            settings["deepspeed"] = ""
        config, found = read_config(file, settings)
        problems += found
        if config is not None:
            label = " ".join(f"{key}={value}" for key, value in changed.items())
            cases.append(Case(label, for_steps(replace(config), steps), changed))
    return cases


def _axes(own: dict[str, str], overrides: dict[str, str], problems: list[str]) -> dict[str, list[str]]:
    """Key -> the values that are tried. No value where all that were named are wrong."""
    axes: dict[str, list[str]] = {}
    named = {key: f"--{key}" for key in overrides}  # key -> the flag that sets it
    if own.get("shardings", "").strip():
        asked = _listed(own["shardings"])
        axes["sharding"] = [sharding for sharding in asked if sharding in SHARDINGS]
        for sharding in asked:
            if sharding not in SHARDINGS:
                renamed = new_value(sharding, SHARDINGS)
                text = f"{sharding!r} was renamed to {renamed!r}" if renamed else must_be_one_of(sharding, SHARDINGS)
                problems.append(f"command line: --shardings: {text}")
        if "sharding" in overrides:
            problems.append("command line: --shardings: sharding is in --shardings and --sharding; keep one")
        named["sharding"] = "--shardings"
    for axis in filter(str.strip, own.get("sweep", "").split(";")):
        key, _, values = axis.partition("=")
        key, values = key.strip(), values.strip()
        if key not in known_keys():
            problems.append(f"command line: --sweep: {unknown_key(key, known_keys())}")
        elif key in named:
            where = "twice in --sweep" if named[key] == "--sweep" else f"in --sweep and {named[key]}"
            problems.append(f"command line: --sweep: {key} is {where}; keep one")
        elif not values:
            problems.append(f"command line: --sweep: must be KEY=VALUE,VALUE; got {axis.strip()!r}")
        else:
            axes[key], named[key] = _listed(values), "--sweep"
    if "sharding" in axes and ("deepspeed" in axes or overrides.get("deepspeed")):
        where = f"{named['deepspeed']}: deepspeed"
        problems.append(f"command line: {where} has no effect beside {named['sharding']}; keep one")
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
