"""``plan``: what a job would need and take, before one is submitted. No GPU, no network, no weights: a
configuration and a machine in words.
"""

import json
from dataclasses import asdict
from typing import Any

from engine import distributed
from engine.config import RunConfig, expand
from engine.core import DoesNotFit
from engine.data import decontaminate
from engine.distributed import Machine
from engine.planning.flags import Asked, assumed_of
from engine.planning.format import stage_json, time_lines
from engine.planning.memory_table import Findings, memory_findings
from engine.planning.planner import Case, Planner
from engine.planning.recommendation import recommend
from engine.planning.remedies import remedies
from engine.planning.summary import Found, summary_lines
from engine.planning.sweep import drawn, scaling, sweep_lines
from engine.training import RunContext, adapt_rows, check_adapters


def plan(config: RunConfig, machine: Machine, asked: Asked) -> None:
    """Print a summary, the memory table of every sharding, what ``auto`` takes, the bytes gathered and, on a known
    device, times; JSON to ``asked.output`` if named.

    Raises:
        UserError: whatever a run of this configuration would be refused with.
        DoesNotFit: all is printed, and the configuration as written does not fit.
    """
    run_context = _checked(config, asked)
    planner = Planner(run_context, asked.mode, asked.device, assumed=asked.assumed or assumed_of(config))
    findings = memory_findings(planner, config, machine)
    found = _found(planner, config, machine, asked)
    findings.content |= _advice_json(found)
    if found.case is not None:
        _time(planner, found.case, asked, findings)
    for line in [*summary_lines(planner, config, machine, found), "", *findings.lines]:
        print(line)
    if asked.output:
        file = expand(asked.output)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(findings.content, indent=1) + "\n")
    if not found.need.fits(machine):
        raise DoesNotFit("The configuration as written does not fit: exit code 3.")


def _found(planner: Planner, config: RunConfig, machine: Machine, asked: Asked) -> Found:
    need = planner.need(config, machine)
    case = recommended = None
    if asked.device is not None:
        case = planner.case(config, machine)
        if case.stages:
            recommended = recommend(planner, config, machine)
        else:  # prompts are scored as they are: no step, so no time
            case = None
    changes = [] if need.fits(machine) else remedies(planner, config, machine)
    return Found(need, case, recommended, changes, asked.unchecked)


def _advice_json(found: Found) -> dict[str, Any]:
    recommended = None
    if found.recommended is not None and found.case is not None:
        recommended = found.recommended.as_json(found.case)
    return {"recommended": recommended, "would_fit": [remedy.as_json() for remedy in found.remedies]}


def _checked(config: RunConfig, asked: Asked) -> RunContext:
    """What needs torch to check; ``engine.recipes.plan`` has checked the rest.

    Raises:
        UserError: all that is wrong.
    """
    run_context = RunContext(config)
    distilled = config.distill.tasks if asked.mode != "adapt" else []
    targets = config.adapt.targets if asked.mode != "distill" else []
    if distilled:
        check_adapters(config, run_context.model_config.hidden_size)
    if asked.prepare:
        splits = ["train", "validation", "test"]
        if distilled:
            decontaminate(run_context.data(dict.fromkeys(distilled, splits)), config.data)
        if targets:
            # more shots than a task has examples, say
            adapt_rows(config, run_context.data(dict.fromkeys(targets, splits)))
        distributed.build_collectives()
    return run_context


def _time(planner: Planner, case: Case, asked: Asked, findings: Findings) -> None:
    knobs = planner.knobs(case)
    findings.lines += ["", *time_lines(case, planner.told, knobs)]
    findings.content |= _times_json(case, planner.told, knobs)
    if asked.sweep is not None:
        points = scaling(planner, case.config, case.machine, asked.sweep)
        findings.lines += ["", *sweep_lines(asked.sweep, points)]
        findings.content["sweep"] = {"key": asked.sweep.key, "points": [p.as_json() for p in points]}
        if asked.png:
            title = f"{planner.run_context.card.name} on {case.device.name}"
            drawn(asked.sweep, points, file=expand(asked.png), title=title)
            findings.lines += ["", f"drawn in {asked.png}"]


def _times_json(case: Case, told: str, knobs: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "gpu": asdict(case.device),
        "lengths": told,
        "stages": [stage_json(s) for s in case.stages],
        "node_hours": case.node_hours,
        "binding": case.main.step.binding,
        "knobs": knobs,
    }
