"""benchmark.json: what the steps of all ranks amount to. Null where a machine cannot tell."""

import dataclasses
import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from backbones import Gathered
from engine import distributed
from engine.benchmarking.cases import Case
from engine.config import NOT_IN_STEP
from engine.core import library_versions, machine_info, source_commit
from engine.distributed import Machine
from engine.telemetry import PHASES, PROJECT, model_operations, utilisation
from engine.training import RunContext

if TYPE_CHECKING:
    from engine.benchmarking.peft_beside import PeftBeside
    from engine.benchmarking.runner import Measured

CONTRACT = (
    "mode",
    "backbone",
    "sharding",
    "world_size",
    "samples_per_s",
    "tokens_per_s",
    "computed_tokens_per_s",
    "step_seconds",
    "mfu",
    "flops_per_step",
    "peak_gpu_bytes",
    "peak_host_bytes",
    "gather_bytes_per_step",
    "h2d_bytes_per_step",
    "load_seconds",
    "kernel_share",
)


class StepRecord(NamedTuple):
    """A step on one rank: seconds; seconds of each phase; samples and real tokens of all ranks; this rank's computed
    tokens, gathers and GPU peak; seconds of the probe before it.
    """

    seconds: float
    phases: dict[str, float]
    samples: int
    real_tokens: int
    computed_tokens: int
    gathered: Gathered
    peak_gpu: int | None
    probe: float


def identity_of(mode: str, case: Case, session: RunContext, rows: str) -> dict[str, Any]:
    """What two measurements must share to be comparable, as far as a process knows before it joins the others."""
    return {
        "mode": mode,
        "case": case.label,
        "backbone": session.card.name,
        "weights": session.backbone_hash[:16],
        "rows": rows[:16],
        "config": flat(case),
    }


def flat(case: Case) -> dict[str, Any]:
    """The settings that decide a step, dotted."""
    out: dict[str, Any] = {}
    for key, value in dataclasses.asdict(case.config).items():
        if isinstance(value, dict):
            out |= {f"{key}.{leaf}": v for leaf, v in value.items()}
        else:
            out[key] = value
    return {k: v for k, v in out.items() if k not in NOT_IN_STEP}


def assemble(
    every: "Sequence[Measured]", mode: str, warmup: int, where: Machine, device: torch.device
) -> dict[str, Any]:
    """The content of benchmark.json, on every rank: the first case's values, and all cases. A collective."""
    cases = [_case(m, mode, warmup, where, device) for m in every]
    head = {key: cases[0][key] for key in CONTRACT}
    made_on = {**machine_info(), "nodes": where.nodes, "ranks_per_node": where.ranks_per_node}
    return {**head, "machine": made_on, "versions": library_versions(), "commit": source_commit(), "cases": cases}


def _case(m: "Measured", mode: str, warmup: int, where: Machine, device: torch.device) -> dict[str, Any]:
    ranks: list[list[StepRecord]] = distributed.gather_objects(m.records)
    steps = list(zip(*ranks, strict=True))  # of each step, what every rank says
    assert m.loop is None and m.chosen is not None
    seconds = [max(r.seconds for r in step) for step in steps]  # a step is over when the slowest rank is through
    real, computed = [step[0].real_tokens for step in steps], [sum(r.computed_tokens for r in step) for step in steps]
    of_phase = {name: [statistics.fmean(r.phases[name] for r in step) for step in steps] for name in PHASES}
    total, world, sizes, everyone = sum(seconds), len(ranks), m.session.sizes, [r for step in steps for r in step]
    peak = distributed.gather_objects(m.peak)
    hosts, gpus = distributed.gather_objects(m.peak_host), [r.peak_gpu for r in everyone if r.peak_gpu is not None]
    tokens_per_s = sum(real) / total
    beside = {}
    if m.peft is not None:
        beside["peft"] = peft_content(m.peft, seconds, real, [step[0].samples for step in steps])
    return {
        "mode": mode,
        "backbone": m.session.card.name,
        "sharding": m.chosen.sharding,
        "world_size": world,
        "samples_per_s": sum(step[0].samples for step in steps) / total,
        "tokens_per_s": tokens_per_s,
        "computed_tokens_per_s": sum(computed) / total,
        "step_seconds": spread(seconds),
        "mfu": utilisation(sizes, tokens_per_s, min(peak) if all(peak) else None, world),
        "flops_per_step": model_operations(sizes, statistics.fmean(real)),
        "peak_gpu_bytes": max(gpus) if gpus else None,
        "peak_host_bytes": None if None in hosts else max(hosts),
        "gather_bytes_per_step": {
            way: statistics.fmean(getattr(r.gathered, way) for r in everyone) for way in ("intra", "inter")
        },
        "h2d_bytes_per_step": statistics.fmean(r.gathered.uploaded for r in everyone),
        "load_seconds": m.load_seconds,
        "kernel_share": sum(of_phase[PROJECT]) / total,
        "label": m.case.label,
        "changed": m.case.swept,
        "recomputed_layers": m.chosen.recompute,
        "inputs_offloaded": m.chosen.offloaded,
        "teacher": m.teacher,
        "beside": m.beside,
        "warmup": warmup,
        "gathers_per_step": statistics.fmean(r.gathered.calls for r in everyone),
        "phases": {name: {**spread(values), "share": sum(values) / total} for name, values in of_phase.items()},
        "steps": {
            "seconds": seconds,
            "real_tokens": real,
            "computed_tokens": computed,
            "samples": [step[0].samples for step in steps],
            "phases": of_phase,
            "probe": [max(r.probe for r in step) for step in steps],
        },
        "identity": m.identity,
        **beside,
    }


def peft_content(
    peft: "PeftBeside", seconds: Sequence[float], real: Sequence[int], samples: Sequence[int]
) -> dict[str, Any]:
    """PEFT's steps. ``ratio``: its seconds over ours, step by step.

    Args:
        seconds, real, samples: of our steps: seconds, real tokens, samples.
    """
    total = sum(peft.seconds)
    ratios = [theirs / ours for theirs, ours in zip(peft.seconds, seconds, strict=True)]
    return {
        "step_seconds": spread(peft.seconds),
        "tokens_per_s": sum(real) / total,
        "samples_per_s": sum(samples) / total,
        "ratio": spread(ratios),
        "fused": False,
        "ours_fused": peft.ours_fused,
        "steps": {"seconds": peft.seconds, "loss": peft.losses},
    }


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, 10th and 90th percentile, by linear interpolation."""
    cuts = statistics.quantiles(values, n=10, method="inclusive") if len(values) > 1 else [values[0]] * 9
    return {"median": statistics.median(values), "p10": cuts[0], "p90": cuts[-1]}
