"""A plan in words: aligned tables for a terminal. Every number has its unit, every decision its reason."""

from collections.abc import Sequence
from typing import Any

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


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Cells under one another; the first column left, the others right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))]
        ).rstrip()
        for row in rows
    ]


def duration(seconds: float) -> str:
    """0.00042 -> 0.42 ms, 3.2 -> 3.20 s, 5400 -> 1.5 h."""
    if seconds >= 3600:
        return f"{seconds / 3600:.1f} h"
    if seconds >= 120:
        return f"{seconds / 60:.1f} min"
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1e3:.3g} ms" if seconds else "0"


def size(count: float) -> str:
    return f"{count / GB:.2f} GB" if count >= 1e7 else f"{count / 1e6:.3g} MB" if count else "0"


def hours(value: float) -> str:
    return f"{value:.3g}" if value < 100 else f"{value:,.0f}"


def time_lines(case: Case, told: str, knobs: Sequence[dict[str, Any]]) -> list[str]:
    """Steps, speed and hours of the stages, what binds, and what other settings would give."""
    d, m = case.device, case.machine
    reach = ", ".join(f"{k} {v:.0%}" for k, v in d.reach.items())
    out = [
        f"Time on {d.name} ({case.need.sharding}; {told})",
        f"counted on, of the makers' peaks: {reach}; hidden behind the device's kernels: "
        + ", ".join(f"{k} {v:.0%}" for k, v in d.overlap.items()),
        "",
    ]
    heads = ["", *(s.work.name for s in case.stages)]
    rows = [heads]
    rows.append(["steps", *(f"{s.work.steps:,}" for s in case.stages)])
    rows.append(["real tokens a step, all ranks", *(f"{s.work.real_tokens:,.0f}" for s in case.stages)])
    rows.append(["micro-batches a step, each rank", *(f"{s.work.rounds:.3g}" for s in case.stages)])
    rows.append(["tokens of one, prompts counted", *(f"{s.work.tokens:,.0f}" for s in case.stages)])
    rows += [
        [f"received a step from the {where}", *(size(getattr(s.gathered, part)) for s in case.stages)]
        for part, where in (("intra", "own node"), ("inter", "other nodes"))
    ]
    rows.append(["uploaded a step over PCIe", *(size(s.gathered.uploaded) for s in case.stages)])
    rows += [[f"a step's {term} alone", *(duration(s.step.terms[term]) for s in case.stages)] for term in IN_WORDS]
    rows.append(["a step", *(duration(s.step.total) for s in case.stages)])
    rows.append(["bound by", *(s.step.binding for s in case.stages)])
    rows.append(["real tokens/s, all ranks", *(f"{s.tokens_per_s:,.0f}" for s in case.stages)])
    rows.append(["MFU (4 N a real token)", *("-" if s.mfu is None else f"{s.mfu:.1%}" for s in case.stages)])
    if any(s.forward.total for s in case.stages):
        rows.append(["validation, teachers' answers", *(duration(s.forward.total) for s in case.stages)])
    rows.append(["the stage", *(duration(s.seconds) for s in case.stages)])
    rows.append(["node-hours", *(hours(s.node_hours) for s in case.stages)])
    out += columns(rows)
    out += [
        "",
        f"in all {hours(case.node_hours)} node-hours ({duration(case.node_hours * 3600 / m.nodes)} on {m.nodes} "
        f"node{'s' * (m.nodes > 1)});"
        " starting up and evaluation are not in it",
        "",
        *advice(case, knobs),
    ]
    return out


def advice(case: Case, knobs: Sequence[dict[str, Any]]) -> list[str]:
    """Which term binds the longest stage, and the settings that move it."""
    stage = case.main
    term, step = stage.step.binding, stage.step
    out = [
        f"{stage.work.name}, the longest stage, is bound by {term}: {IN_WORDS[term]} takes "
        f"{duration(step.terms[term])} of a step's"
        f" {duration(step.total)} ({step.terms[term] / step.total:.0%})."
    ]
    better = [k for k in knobs if k["times"] >= WORTH_TELLING]
    if better:
        first = better[0]
        out.append(
            f"What moves it most: {_setting(first)} would give {first['tokens_per_s']:,.0f} real tokens/s, "
            f"{first['times']:.2f} times as many"
            f"{_besides(first)}; it would then be bound by {first['binding']}."
        )
        if _besides(first):
            same = next((k for k in better if not _besides(k)), None)
            told = (
                f"{_setting(same)} would give {same['times']:.2f} times as many"
                if same
                else "nothing that was tried gives 2 % more"
            )
            out.append(f"With the optimisation as it is, {told}.")
    else:
        out.append("Nothing that was tried gives 2 % more.")
    if knobs:
        out += ["", "If one thing were changed", ""]
        rows = [["", "real tokens/s", "times", "node-hours", "then bound by"]]
        rows += [
            [_setting(k), f"{k['tokens_per_s']:,.0f}", f"{k['times']:.2f}", hours(k["node_hours"]), k["binding"]]
            for k in knobs
        ]
        out += columns(rows)
    return out


def _setting(knob: dict[str, Any]) -> str:
    value = f"{knob['value']:,.0f}" if isinstance(knob["value"], float) else str(knob["value"])
    return (
        f"{knob['key']} {value}"
        if knob["key"].startswith("--") or knob["key"] == "nodes"
        else f"{knob['key']}: {value}"
    )


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
