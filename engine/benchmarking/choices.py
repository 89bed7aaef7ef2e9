"""What the flags of ``benchmark`` may ask for: a stage, its steps, a peer beside it. No torch, so that a wrong command
ends before it is imported.
"""

import importlib.util
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace

from engine.config import RunConfig
from engine.core import UserError
from engine.data import invention_of
from strict_yaml import must_be_one_of

MODES = ("teach", "distill", "adapt")
NEEDS = {"teach": "distill.sources", "distill": "distill.sources", "adapt": "adapt.targets"}
PEERS = ("peft",)
STAGES = ("teach", "distill")


def main_mode(config: RunConfig) -> str:
    """The stage that the configuration is for."""
    return "adapt" if config.adapt.targets and not config.distill.sources else "distill"


def mode_name_problems(mode: str) -> list[str]:
    """That there is no stage of this name; an empty one stands for the configuration's own."""
    return [f"command line: --mode: {must_be_one_of(mode, MODES)}"] if mode and mode not in MODES else []


def mode_problems(mode: str, config: RunConfig) -> list[str]:
    """What is wrong with a stage to measure: there is none of this name, or the configuration names no task for it."""
    if problems := mode_name_problems(mode):
        return problems
    tasks = config.adapt.targets if mode == "adapt" else config.distill.sources
    if not tasks:
        return [f"{NEEDS[mode]}: missing; --mode={mode} needs at least one task"]
    return []


def form_problems(own: Mapping[str, str]) -> list[str]:
    """What is wrong with flags as typed, where no configuration can be read."""
    problems = mode_name_problems(own.get("mode", ""))
    if "invented" in own:
        try:
            invention_of(own["invented"], max_length=sys.maxsize)
        except UserError as error:
            problems += error.problems
    if "beside" in own:
        problems += problems_of(own["beside"], own.get("mode", ""), configs=[])
    return problems


def for_steps(config: RunConfig, steps: int) -> RunConfig:
    """The configuration with stages of at least so many steps, and no validation between them."""
    return replace(
        config,
        teach=replace(config.teach, steps=max(config.teach.steps, steps), eval_interval=0, adapters="", run=""),
        distill=replace(config.distill, steps=max(config.distill.steps, steps)),
        adapt=replace(config.adapt, steps=max(config.adapt.steps, steps), eval_interval=0),
    )


def problems_of(peer: str, mode: str, configs: Sequence[RunConfig]) -> list[str]:
    """What is wrong with ``--beside`` for these cases, told before anything starts."""
    if peer not in PEERS:
        return [f"command line: --beside: {must_be_one_of(peer, PEERS)}"]
    out = []
    if importlib.util.find_spec("peft") is None:
        out.append("command line: --beside: peft is not installed; pip install -r requirements-dev.txt")
    if mode in MODES and mode not in STAGES:
        out.append(f"command line: --beside: PEFT has no step like that of {mode}; set --mode=teach or --mode=distill")
    for file, placed in sorted({(c.deepspeed, c.sharding) for c in configs}):
        if file or placed != "replicated":
            fix = "--sharding=replicated" + (" --deepspeed=" if file else "")
            out.append(f"command line: --beside: PEFT needs the whole backbone, not {file or placed}; set {fix}")
    return out
