"""A plan in words: aligned tables for a terminal. Every number has its unit, every decision its reason."""

from collections.abc import Mapping, Sequence
from typing import Any

from engine.core import aligned_columns
from engine.distributed import GB
from engine.planning.cost_model import Seconds
from engine.planning.planner import WORTH_TELLING, Case, StageTime

IN_WORDS = {
    "compute": "arithmetic",
    "memory": "the device's own memory",
    "gather": "gathering weights from other ranks",
    "transfer": "copies from host memory over PCIe",
    "host": "the host, which starts modules one by one",
}


def side_by_side(tables: Sequence[Mapping[str, str]]) -> list[list[str]]:
    """Rows of columns that map a row's name to its cell."""
    return [[name, *(table[name] for table in tables)] for name in tables[0]]


def duration(seconds: float) -> str:
    """0.00042 -> 0.42 ms, 3.2 -> 3.20 s, 5400 -> 1.5 h."""
    if seconds >= 3600:
        return f"{seconds / 3600:.1f} h"
    if seconds >= 120:
        return f"{seconds / 60:.1f} min"
    if seconds >= 1:
        return f"{seconds:.2f} s"
    return f"{seconds * 1e3:.3g} ms" if seconds else "0"


def size(count: float) -> str:
    """In GB or MB."""
    if count >= 1e7:
        return f"{count / GB:.2f} GB"
    return f"{count / 1e6:.3g} MB" if count else "0"


def hours(value: float) -> str:
    return f"{value:.3g}" if value < 100 else f"{value:,.0f}"


def yes_no(value: bool) -> str:
    return "yes" if value else "no"


def percent(share: float | None, digits: int = 0) -> str:
    """0.257 -> 26%; a dash where it is not known."""
    return "-" if share is None else f"{share:.{digits}%}"


def percents(shares: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {share:.0%}" for name, share in shares.items())


def time_lines(case: Case, told: str, knobs: Sequence[dict[str, Any]]) -> list[str]:
    """Steps, speed and hours of the stages, what binds, and what other settings would give."""
    device, nodes = case.device, case.machine.nodes
    with_forward = any(stage.forward.total for stage in case.stages)
    table = aligned_columns(side_by_side([_stage_cells(stage, with_forward) for stage in case.stages]))
    seconds = case.node_hours * 3600 / nodes
    return [
        f"Time on {device.name} ({case.need.sharding}; {told})",
        f"counted on, of the makers' peaks: {percents(device.reach)}; hidden behind the device's kernels: "
        f"{percents(device.overlap)}",
        "",
        *table,
        "",
        f"in all {hours(case.node_hours)} node-hours ({duration(seconds)} on {nodes} node{'s' * (nodes > 1)});"
        " starting up and evaluation are not in it",
        "",
        *advice(case, knobs),
    ]


def _stage_cells(stage: StageTime, with_forward: bool) -> dict[str, str]:
    """A column of the table of times: row -> cell."""
    work, step = stage.work, stage.step
    out = {
        "": work.name,
        "steps": f"{work.steps:,}",
        "real tokens a step, all ranks": f"{work.real_tokens:,.0f}",
        "micro-batches a step, each rank": f"{work.rounds:.3g}",
        "tokens of one, prompts counted": f"{work.tokens:,.0f}",
        "received a step from the own node": size(stage.gathered.intra),
        "received a step from the other nodes": size(stage.gathered.inter),
        "uploaded a step over PCIe": size(stage.gathered.uploaded),
    }
    for term in IN_WORDS:
        out[f"a step's {term} alone"] = duration(step.terms[term])
    out |= {
        "a step": duration(step.total),
        "bound by": step.binding,
        "real tokens/s, all ranks": f"{stage.tokens_per_s:,.0f}",
        "MFU (4 N a real token)": percent(stage.mfu, 1),
    }
    if with_forward:
        out["validation, teachers' answers"] = duration(stage.forward.total)
    return out | {"the stage": duration(stage.seconds), "node-hours": hours(stage.node_hours)}


def advice(case: Case, knobs: Sequence[dict[str, Any]]) -> list[str]:
    """Which term binds the longest stage, and the settings that move it."""
    stage = case.main
    term, step = stage.step.binding, stage.step
    out = [
        f"{stage.work.name}, the longest stage, is bound by {term}: {IN_WORDS[term]} takes "
        f"{duration(step.terms[term])} of a step's {duration(step.total)} ({step.terms[term] / step.total:.0%})."
    ]
    better = [knob for knob in knobs if knob["times"] >= WORTH_TELLING]
    if not better:
        out.append("Nothing that was tried gives 2 % more.")
    else:
        first = better[0]
        out.append(
            f"What moves it most: {_setting(first)} would give {first['tokens_per_s']:,.0f} real tokens/s, "
            f"{first['times']:.2f} times as many{_besides(first)}; it would then be bound by {first['binding']}."
        )
        if _besides(first):
            told = "nothing that was tried gives 2 % more"
            alike = [knob for knob in better if not _besides(knob)]
            if alike:
                told = f"{_setting(alike[0])} would give {alike[0]['times']:.2f} times as many"
            out.append(f"With the optimisation as it is, {told}.")
    if knobs:
        out += ["", "If one thing were changed", ""]
        rows = [["", "real tokens/s", "times", "node-hours", "then bound by"]]
        for knob in knobs:
            speed, times = f"{knob['tokens_per_s']:,.0f}", f"{knob['times']:.2f}"
            rows.append([_setting(knob), speed, times, hours(knob["node_hours"]), knob["binding"]])
        out += aligned_columns(rows)
    return out


def _setting(knob: dict[str, Any]) -> str:
    """As it is typed or written in a configuration."""
    key, value = knob["key"], str(knob["value"])
    if isinstance(knob["value"], float):
        value = f"{knob['value']:,.0f}"
    if key.startswith("--") or key == "nodes":
        return f"{key} {value}"
    return f"{key}: {value}"


def _besides(knob: dict[str, Any]) -> str:
    return " (another optimisation: more examples a step)" if knob["key"].endswith(".batch_size") else ""


def stage_json(stage: StageTime) -> dict[str, Any]:
    """For programs; seconds, bytes, tokens."""
    w = stage.work
    return {
        "stage": w.name,
        "steps": w.steps,
        "micro_batch": w.kind,
        "micro_batches_per_step": w.rounds,
        "tokens_per_micro_batch": w.tokens,
        "real_tokens_per_step": w.real_tokens,
        "examples_per_step": w.examples,
        "forward_micro_batches": len(w.forward),
        "gathered_per_step": {
            "intra": stage.gathered.intra,
            "inter": stage.gathered.inter,
            "uploaded": stage.gathered.uploaded,
        },
        "step_seconds": stage.step.total,
        "terms": dict(stage.step.terms),
        "first_layer_seconds": stage.step.first,
        "binding": stage.step.binding,
        "forward_seconds": stage.forward.total,
        "seconds": stage.seconds,
        "tokens_per_s": stage.tokens_per_s,
        "mfu": stage.mfu,
        "node_hours": stage.node_hours,
    }


def bound(seconds: Seconds) -> str:
    return f"{seconds.binding} {seconds.terms[seconds.binding] / seconds.total:.0%}"
