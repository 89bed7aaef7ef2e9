"""``plan``: what a job would need and take, before one is submitted. No GPU, no network, no weights: a
configuration and a machine in words.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from engine import distributed
from engine.config import RunConfig, value_at
from engine.core import UserError
from engine.data import decontaminate
from engine.distributed import DeviceKind, Machine
from engine.planning.flags import assumed_of
from engine.planning.format import stage_json, time_lines
from engine.planning.memory_table import Findings, memory_findings
from engine.planning.planner import Case, Planner
from engine.planning.sample_lengths import Assumed
from engine.planning.sweep import Sweep, drawn, scaling, sweep_lines
from engine.training import RunContext, adapt_rows, check_adapters


@dataclass(frozen=True)
class Asked:
    """Of one plan. mode: distill or adapt, to check what that needs too, or empty. prepare: tokenise its corpora and
    compile what is compiled once, so that a job does not hold its nodes for that. device: None for memory and bytes
    alone. sweep, png: settings to try one after another, and where to draw them.
    """

    mode: str = ""
    prepare: bool = False
    device: DeviceKind | None = None
    assumed: Assumed | None = None
    sweep: Sweep | None = None
    png: str = ""
    output: str = ""


def plan(config: RunConfig, machine: Machine, asked: Asked) -> None:
    """Print the memory table of every sharding, what ``auto`` takes, the bytes gathered and, on a known device, times;
    JSON to ``asked.output`` if named.

    Raises:
        UserError: whatever a run of this configuration would be refused with.
    """
    run_context = _checked(config, asked)
    planner = Planner(run_context, asked.mode, asked.device, assumed=asked.assumed or assumed_of(config))
    found = memory_findings(planner, config, machine)
    if asked.device is not None:
        _time(planner, config, machine, asked, found)
    for line in found.lines:
        print(line)
    if asked.output:
        Path(asked.output).write_text(json.dumps(found.content, indent=1) + "\n")


def _checked(config: RunConfig, asked: Asked) -> RunContext:
    mode = asked.mode
    if mode:
        require_key(config, {"distill": "distill.sources", "adapt": "adapt.targets"}[mode])
    run_context = RunContext(config)
    if mode == "adapt" and "metaprompt" in config.adapt.methods and not config.adapt.source_run:
        raise UserError("adapt.source_run: missing; name the run directory of the distillation")
    if mode == "distill":
        check_adapters(config, run_context.model_config.hidden_size)
    if asked.prepare:
        splits = ["train", "validation", "test"]
        if mode == "adapt":
            data = run_context.data(dict.fromkeys(config.adapt.targets, splits))
            adapt_rows(config, data)  # more shots than a task has examples, say
        else:
            data = run_context.data(dict.fromkeys(config.distill.tasks, splits))
            if mode == "distill":
                decontaminate(data, config.data)
        distributed.build_collectives()
    return run_context


def require_key(config: RunConfig, key: str) -> None:
    if not value_at(config, key):
        raise UserError(f"{key}: missing; name at least one task")


def _time(planner: Planner, config: RunConfig, machine: Machine, asked: Asked, found: Findings) -> None:
    case = planner.case(config, machine)
    if not case.stages:
        raise UserError("nothing to time: the configuration has neither distill.sources nor adapt.targets")
    knobs = planner.knobs(case)
    found.lines += ["", *time_lines(case, planner.told, knobs)]
    found.content |= _times_json(case, planner.told, knobs)
    if asked.sweep is not None:
        points = scaling(planner, config, machine, asked.sweep)
        found.lines += ["", *sweep_lines(asked.sweep, points)]
        found.content["sweep"] = {"key": asked.sweep.key, "points": [p.as_json() for p in points]}
        if asked.png:
            drawn(
                asked.sweep,
                points,
                file=Path(asked.png),
                title=f"{planner.run_context.card.name} on {case.device.name}",
            )
            found.lines += ["", f"drawn in {asked.png}"]


def _times_json(case: Case, told: str, knobs: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "gpu": asdict(case.device),
        "lengths": told,
        "stages": [stage_json(s) for s in case.stages],
        "node_hours": case.node_hours,
        "binding": case.main.step.binding,
        "knobs": knobs,
    }
