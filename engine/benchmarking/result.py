"""benchmark.json: what the steps of all ranks amount to. Null where a machine cannot tell."""

import dataclasses
import statistics
from collections.abc import Sequence
from itertools import chain
from typing import Any

import torch

from engine import distributed
from engine.benchmarking.measured import Measured, StepRecord
from engine.benchmarking.peft_beside import PeftBeside
from engine.core import library_versions, machine_info, source_commit
from engine.distributed import Machine
from engine.telemetry import PHASES, PROJECT, model_operations, utilisation
from engine.training import BackboneHolder

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


def identity_of(asked: dict[str, Any], holder: BackboneHolder, rows: str) -> dict[str, Any]:
    """What two measurements must share to be comparable, as far as a process knows before it joins the others.

    Args:
        asked: of the case, as ``asked_of`` has it.
    """
    return {**asked, "weights": holder.context.backbone_hash[:16], "rows": rows[:16]}


def assemble(every: Sequence[Measured], mode: str, warmup: int, where: Machine, device: torch.device) -> dict[str, Any]:
    """The content of benchmark.json, on every rank: the first case's values, and all cases. A collective."""
    cases = [_case(m, mode, warmup, where, device) for m in every]
    head = {key: cases[0][key] for key in CONTRACT}
    made_on = {**machine_info(), "nodes": where.nodes, "ranks_per_node": where.ranks_per_node}
    return {**head, "machine": made_on, "versions": library_versions(), "commit": source_commit(), "cases": cases}


@dataclasses.dataclass(frozen=True)
class _Steps:
    """The steps of all ranks. seconds: of the slowest rank, for a step is over when that is through. real, samples: of
    all ranks. computed: tokens of all ranks. phases: the mean of the ranks. probe: of the slowest rank.
    """

    seconds: list[float]
    real: list[int]
    computed: list[int]
    samples: list[int]
    phases: dict[str, list[float]]
    probe: list[float]


def _steps(ranks: Sequence[Sequence[StepRecord]]) -> _Steps:
    out = _Steps([], [], [], [], {name: [] for name in PHASES}, [])
    for step in zip(*ranks, strict=True):  # what every rank says of it
        out.seconds.append(max(record.seconds for record in step))
        out.real.append(step[0].real_tokens)
        out.computed.append(sum(record.computed_tokens for record in step))
        out.samples.append(step[0].samples)
        for name, values in out.phases.items():
            values.append(statistics.fmean(record.phases[name] for record in step))
        out.probe.append(max(record.probe for record in step))
    return out


def _case(m: Measured, mode: str, warmup: int, where: Machine, device: torch.device) -> dict[str, Any]:
    """A case's entry in benchmark.json. A collective."""
    ranks: list[list[StepRecord]] = distributed.gather_objects(m.records)
    assert m.trainer is None and m.chosen is not None
    steps, sizes, world = _steps(ranks), m.holder.context.sizes, len(ranks)
    peaks, hosts = distributed.gather_objects(m.peak), distributed.gather_objects(m.peak_host)
    total, records = sum(steps.seconds), list(chain.from_iterable(ranks))
    tokens_per_s = sum(steps.real) / total
    out = {
        "mode": mode,
        "backbone": m.holder.context.card.name,
        "sharding": m.chosen.sharding,
        "world_size": world,
        "samples_per_s": sum(steps.samples) / total,
        "tokens_per_s": tokens_per_s,
        "computed_tokens_per_s": sum(steps.computed) / total,
        "step_seconds": spread(steps.seconds),
        "mfu": utilisation(sizes, real_tokens_per_s=tokens_per_s, peak=min(peaks) if all(peaks) else None, ranks=world),
        "flops_per_step": model_operations(sizes, statistics.fmean(steps.real)),
        **_memory_and_traffic(records, hosts),
        "load_seconds": m.load_seconds,
        "kernel_share": sum(steps.phases[PROJECT]) / total,
        "label": m.case.label,
        "changed": m.case.swept,
        "recomputed_layers": m.chosen.recompute,
        "inputs_offloaded": m.chosen.offloaded,
        "teacher": m.teacher,
        "beside": m.beside,
        "warmup": warmup,
        "gathers_per_step": statistics.fmean(record.gathered.calls for record in records),
        "phases": {name: {**spread(values), "share": sum(values) / total} for name, values in steps.phases.items()},
        "steps": {
            "seconds": steps.seconds,
            "real_tokens": steps.real,
            "computed_tokens": steps.computed,
            "samples": steps.samples,
            "phases": steps.phases,
            "probe": steps.probe,
        },
        "identity": m.identity,
    }
    if m.peft is not None:
        out["peft"] = peft_content(m.peft, steps.seconds, steps.real, steps.samples)
    return out


def _memory_and_traffic(records: Sequence[StepRecord], hosts: Sequence[int | None]) -> dict[str, Any]:
    """Peaks over all ranks and steps; bytes of a rank and a step.

    Args:
        hosts: each rank's peak of host memory.
    """
    gpus = [record.peak_gpu for record in records if record.peak_gpu is not None]
    gathered = [record.gathered for record in records]
    return {
        "peak_gpu_bytes": max(gpus, default=None),
        "peak_host_bytes": None if None in hosts else max(hosts),  # type: ignore[type-var]
        "gather_bytes_per_step": {
            "intra": statistics.fmean(one.intra for one in gathered),
            "inter": statistics.fmean(one.inter for one in gathered),
        },
        "h2d_bytes_per_step": statistics.fmean(one.uploaded for one in gathered),
    }


def peft_content(
    peft: PeftBeside, seconds: Sequence[float], real: Sequence[int], samples: Sequence[int]
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
