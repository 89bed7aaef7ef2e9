"""A plan in one paragraph of plain words: what was asked, what fits, what is recommended, how long it takes, what
limits it, and what is uncertain.
"""

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from engine.config import RunConfig
from engine.distributed import GB, USABLE, Machine, MemoryEstimate, micro_batch_shape
from engine.planning.format import duration, hours
from engine.planning.planner import Case, Planner, StageTime
from engine.planning.recommendation import Recommendation
from engine.planning.remedies import Remedy, per_rank

WIDTH = 110
LIMITS = {
    "compute": "compute: matrix products take",
    "memory": "memory bandwidth: reading and writing the device's own memory takes",
    "transfer": "upload: copies from host memory over PCIe take",
    "host": "the host: starting modules one by one takes",
}
STAGES = {
    "teach": "A teaching",
    "distill": "A distillation",
    "adapt": "An adaptation",
    "lr_sweep": "A learning-rate sweep's",
}


@dataclass(frozen=True)
class Found:
    """What a plan computed. case, recommended: None without a kind of GPU, or without a step. remedies: where the
    configuration as written does not fit. unchecked: what a run needs, and this machine does not have yet.
    """

    need: MemoryEstimate
    case: Case | None
    recommended: Recommendation | None
    remedies: Sequence[Remedy]
    unchecked: Sequence[str] = ()


def summary_lines(planner: Planner, config: RunConfig, machine: Machine, found: Found) -> list[str]:
    """The paragraph, wrapped for a terminal."""
    sentences = [
        _asked(planner, config, machine),
        *_memory(planner, config, machine, found),
        *_time(planner, found, machine),
        *_idle(found, machine),
        *_recommended(config, machine, found),
        *_uncertain(planner, found),
    ]
    if found.unchecked:
        sentences.append(f"Not on this machine, and not checked: {', '.join(found.unchecked)}.")
        sentences.append(
            "A run is refused without it." if len(found.unchecked) == 1 else "A run is refused without them."
        )
    return textwrap.wrap(" ".join(sentences), WIDTH, break_on_hyphens=False, break_long_words=False)


def _asked(planner: Planner, config: RunConfig, machine: Machine) -> str:
    modes = []
    if config.distill.tasks and planner.mode != "adapt":
        modes.append("distillation")
    if config.adapt.targets and planner.mode != "distill":
        modes.append("adaptation")
    kind = f" ({planner.device.name})" if planner.device is not None else ""
    name = planner.run_context.card.name
    asked, tokens = config.max_tokens_per_micro_batch, micro_batch_shape(config, planner.sizes).tokens
    longer = ""
    if tokens > asked:
        longer = (
            f": the longest sample (data.max_length + prompt) exceeds max_tokens_per_micro_batch, {asked:,}; it goes "
            "through alone"
        )
    return (
        f"Asked: {' and '.join(modes)} with {name} on {_ranks(machine)}{kind}, in micro-batches of up to {tokens:,} "
        f"tokens{longer}."
    )


def _ranks(machine: Machine) -> str:
    rank = "GPU" if machine.device == "cuda" else "CPU rank"
    many = "s" * (machine.ranks_per_node > 1)
    if machine.nodes == 1:
        return f"1 node with {machine.ranks_per_node} {rank}{many}"
    return f"{machine.nodes} nodes with {machine.ranks_per_node} {rank}{many} each"


def _memory(planner: Planner, config: RunConfig, machine: Machine, found: Found) -> list[str]:
    need = found.need
    if not need.fits(machine):
        out = [f"It does not fit: `{need.sharding}` needs {_lacking(need, machine)}."]
        if not found.remedies:
            return [*out, "No change that was tried would fit."]
        listed = "; or ".join(remedy.text() for remedy in found.remedies)
        return [*out, f"{'This' if len(found.remedies) == 1 else 'Each of these'} would fit: {listed}."]
    out = [f"It fits: `{need.sharding}` needs {_held(need, machine)}."]
    if need.recompute:
        waiting = ", and their inputs wait on the host" if need.offloaded else ""
        out.append(f"{need.recompute} of {len(planner.sizes.layers)} layers are recomputed to save memory{waiting}.")
    largest = planner.largest_budget(config, machine, need.sharding)
    return [*out, f"Micro-batches of up to {largest:,} tokens would fit."]


def _held(need: MemoryEstimate, machine: Machine) -> str:
    """``49.7 GB of each GPU's 80.0 GB``."""
    if machine.device == "cuda":
        return f"{need.device / GB:.1f} GB of each GPU's {machine.device_bytes / GB:,.1f} GB"
    return f"{_of_a_node(need, machine) / GB:.1f} GB of a node's {machine.host_bytes / GB:,.1f} GB"


def _lacking(need: MemoryEstimate, machine: Machine) -> str:
    """What is needed of the memories that are too small."""
    out = []
    if machine.device == "cuda" and need.device > USABLE * machine.device_bytes:
        out.append(f"{need.device / GB:.1f} GB on each GPU, which has {_usable(machine.device_bytes)}")
    held = _of_a_node(need, machine)
    if held > USABLE * machine.host_bytes:
        out.append(f"{held / GB:.1f} GB on each node's host, which has {_usable(machine.host_bytes)}")
    return " and ".join(out)


def _usable(memory: float) -> str:
    return f"{memory / GB:,.1f} GB ({USABLE * memory / GB:,.1f} GB usable)"


def _of_a_node(need: MemoryEstimate, machine: Machine) -> float:
    """Bytes of host memory of all ranks of a node; on CPUs the ranks' devices are in it."""
    return (need.host if machine.device == "cuda" else per_rank(need, machine)) * machine.ranks_per_node


def _time(planner: Planner, found: Found, machine: Machine) -> list[str]:
    case = found.case
    if case is None and planner.device is not None:
        return ["Nothing is trained, so there are no times."]
    if case is None and machine.device == "cpu":
        return ["For times, name a machine file calibrated on CPU ranks (--gpu=FILE, see docs/how_to/planning.md)."]
    if case is None:
        return ["Name the kind of GPU for times (--gpu=h100, for example)."]
    if not found.need.fits(machine):
        return []
    stage = case.main
    step, term = stage.step, stage.step.binding
    share = step.terms[term] / step.total
    return [
        f"It takes {duration(_seconds(case))} ({hours(case.node_hours)} node-hours), without start-up and evaluation.",
        f"The longest stage, {stage.work.name}, is limited by {_limit(term, machine)} {share:.0%} of a step.",
    ]


def _idle(found: Found, machine: Machine) -> list[str]:
    """Stages whose steps have fewer samples than there are ranks, and what to change."""
    case = found.case
    stages = [stage for stage in case.stages if case.idle_ranks(stage)] if case is not None else []
    if case is None or not stages:
        return []
    out = []
    for stage in stages:
        name = STAGES[stage.work.name]
        out.append(
            f"{name} step has {math.ceil(stage.work.examples):,} samples for {machine.world:,} {_of_ranks(machine)}; "
            f"at least {case.idle_ranks(stage):,} have none."
        )
    return [*out, f"Use {_fuller(case, stages, machine)}."]


def _fuller(case: Case, stages: Sequence[StageTime], machine: Machine) -> str:
    """What gives every rank a sample."""
    keys = dict.fromkeys(".".join(case.examples_key(stage)) for stage in stages)
    fewer = "nodes" if machine.nodes > 1 else _of_ranks(machine)
    return f"fewer {fewer} or a larger {' and '.join(keys)}"


def _of_ranks(machine: Machine) -> str:
    return "GPUs" if machine.device == "cuda" else "CPU ranks"


def _limit(term: str, machine: Machine) -> str:
    if term != "gather":
        return LIMITS[term]
    link = "network" if machine.nodes > 1 else "links between the GPUs of a node"
    return f"the {link}: gathering weights from other ranks takes"


def _seconds(case: Case) -> float:
    return case.node_hours * 3600 / case.machine.nodes


def _recommended(config: RunConfig, machine: Machine, found: Found) -> list[str]:
    recommended = found.recommended
    if recommended is None or recommended.option is None or found.case is None:
        if found.need.fits(machine) or len(found.remedies) < 2 or found.remedies[0].memory:
            return []  # more memory is no setting of a run
        return [f"Recommended: {' '.join(found.remedies[0].flags)}."]
    option = recommended.option
    if not option.flags:
        idle = [stage for stage in found.case.stages if found.case.idle_ranks(stage)]
        what = _fuller(found.case, idle, machine) if idle else "run it as written"
        return [
            f"Recommended: {what}; of {recommended.tried} settings of sharding and max_tokens_per_micro_batch none "
            "that fits is 2 % faster."
        ]
    told = [remedy.flags for remedy in found.remedies] == [option.flags]
    out = [] if told else [f"Recommended: add {' '.join(option.flags)}."]
    times = f"{found.case.node_hours / option.case.node_hours:.2f} times as fast, "
    if not found.need.fits(machine):
        times = ""
    out.append(
        f"It then takes {duration(_seconds(option.case))} ({hours(option.case.node_hours)} node-hours): {times}the "
        f"fastest of {recommended.tried} settings computed, or within 2 % of it."
    )
    if found.need.fits(machine):
        out.append(_why_not_by_itself(config))
    return out


def _why_not_by_itself(config: RunConfig) -> str:
    if config.sharding == "auto" and not config.deepspeed:
        return "A run does not choose this: `sharding: auto` takes the first sharding that fits and predicts no times."
    return "A run does not choose this: it keeps to the configuration."


def _uncertain(planner: Planner, found: Found) -> list[str]:
    if found.case is None:
        return []
    out = []
    if planner.told.startswith("assumed: "):
        out.append(f"Uncertain: lengths are assumed ({planner.told.removeprefix('assumed: ')}).")
        out.append("Where the corpora are, --prepare=true counts real ones.")
    if min(found.case.device.reach.values()) < 1:
        out.append("GPU and link speeds are the maker's figures times an assumed share, not measured.")
    return out
