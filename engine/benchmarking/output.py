"""The output folder of ``benchmark``: benchmark.json, benchmark.md, benchmark.png."""

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from engine import core
from engine.benchmarking.verdict import Verdict, verdict_table
from engine.core import write_atomic
from engine.telemetry import MEANINGS, PHASES
from strict_yaml import counted

GB = 1e9
PEFT_NOTE = [
    "PEFT's step: multitask prompt tuning on the same backbone and samples, after each step of ours: forward "
    "and backward passes and AdamW. Its batches are made before its clock starts. They are of like length, "
    "padded on the right, within the same token budget. It has transformers' own operators, loss and SDPA "
    "attention (eager for gpt-oss), and recomputes the layers that ours recomputes. KL and hidden MSE are "
    "written into its loop, and it asks the teacher in every step. The host's peak is not known beside it.",
]


def write_files(folder: Path, content: dict[str, Any], verdict: Verdict | None, profiled: bool) -> list[str]:
    """Write the folder. -> lines for the terminal."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_atomic(folder / "benchmark.json", json.dumps(content, indent=1) + "\n")
    table, beside = case_table(content["cases"]), peft_table(content["cases"])
    if beside:
        table += ["", *beside]
    compared: list[str] = []
    if verdict is not None:
        compared = verdict_table(verdict)
    write_atomic(folder / "benchmark.md", "\n".join(_page(content, table, compared, profiled)) + "\n")
    chart(folder / "benchmark.png", content)
    out = [*table, ""]
    if compared:
        out += [*compared, ""]
    return [*out, f"written to {folder}: benchmark.json, benchmark.md, benchmark.png"]


def _page(content: dict[str, Any], table: list[str], compared: list[str], profiled: bool) -> list[str]:
    m, c, versions = content["machine"], content["cases"][0], content["versions"]
    device = m["gpu"] or m["cpu"] or "unknown processor"
    where = f"{counted(content['world_size'], 'rank')} on {counted(m['nodes'], 'node')}, {device}"
    out = [
        f"# {content['mode']} of {content['backbone']}",
        "",
        f"{where}. {counted(len(c['steps']['seconds']), 'step')} after {c['warmup']} of warm-up; medians (10th to 90th "
        f"percentile). torch {versions.get('torch')}, DeepSpeed {versions.get('deepspeed')}, "
        f"commit {content['commit'] or 'unknown'}. Made by:",
        "",
        "    python train.py " + " ".join(sys.argv[1:]),
        "",
        *table,
        "",
        "Real tokens are those of samples; computed ones have prompts, padding and fillers besides. MFU counts 4 "
        "N operations a real token (N: numbers of the layers that a token meets; a frozen backbone has no gradient "
        "of weights) against the peak that the device's maker states; - where that is not known. Bytes are of a rank "
        "and a step.",
        "",
        "![phases](benchmark.png)",
        "",
        *phase_table(content["cases"]),
        "",
        *bullets(f"{name}: {MEANINGS[name]}" for name in PHASES),
        "",
        "A phase is the mean of the ranks, the step that of the slowest: they need not add up to the last digit.",
    ]
    if any("peft" in case for case in content["cases"]):
        out += ["", *PEFT_NOTE]
    if any(case["beside"] for case in content["cases"]):
        out += [
            "",
            (
                "The cases took turns in one process: the host's peak of each alone is not known "
                "(`--alternate=false` measures it)."
            ),
        ]
    if content.get("left_out"):
        out += ["", "Left out, for memory would not hold them:", "", *bullets(content["left_out"])]
    if compared:
        out += ["", "## Against an earlier run", "", *compared]
    if profiled:
        out += ["", "Traces: profile.md"]
    return out


def bullets(lines: Iterable[str]) -> list[str]:
    return [f"- {line}" for line in lines]


def case_table(cases: list[dict[str, Any]]) -> list[str]:
    head = [
        "case",
        "sharding",
        "step s",
        "real tokens/s",
        "computed tokens/s",
        "samples/s",
        "MFU",
        "gathered MB near, far",
        "uploaded MB",
        "GPU GB",
        "host GB",
        "load s",
        "projection",
    ]
    rows = []
    for c in cases:
        g, sharding = c["gather_bytes_per_step"], c["sharding"]
        if c["recomputed_layers"]:
            sharding += f", {counted(c['recomputed_layers'], 'layer')} recomputed"
        rows.append(
            [
                c["label"] or "-",
                sharding,
                with_range(c["step_seconds"]),
                f"{c['tokens_per_s']:,.0f}",
                f"{c['computed_tokens_per_s']:,.0f}",
                f"{c['samples_per_s']:.3g}",
                mfu_text(c),
                f"{g['intra'] / 1e6:,.1f}, {g['inter'] / 1e6:,.1f}",
                f"{c['h2d_bytes_per_step'] / 1e6:,.1f}",
                _gb(c["peak_gpu_bytes"]),
                _gb(c["peak_host_bytes"]),
                f"{c['load_seconds']:.2f}",
                f"{c['kernel_share']:.1%}",
            ]
        )
    return markdown(head, rows)


def with_range(seconds: dict[str, float]) -> str:
    """Median, and 10th to 90th percentile."""
    return f"{seconds['median']:.3g} ({seconds['p10']:.3g}-{seconds['p90']:.3g})"


def mfu_text(case: dict[str, Any]) -> str:
    return "-" if case["mfu"] is None else f"{case['mfu']:.1%}"


def peft_table(cases: list[dict[str, Any]]) -> list[str]:
    """Of the cases that PEFT was timed beside; nothing where there are none."""
    rows = []
    for c in cases:
        if "peft" in c:
            ours, theirs, ratio = c["step_seconds"], c["peft"]["step_seconds"], c["peft"]["ratio"]
            rows.append(
                [
                    c["label"] or "-",
                    f"{ours['median']:.3g}",
                    with_range(theirs),
                    f"{c['tokens_per_s']:,.0f}",
                    f"{c['peft']['tokens_per_s']:,.0f}",
                    f"{ratio['median']:.2f} ({ratio['p10']:.2f}-{ratio['p90']:.2f})",
                ]
            )
    head = ["beside PEFT", "ours, step s", "PEFT, step s", "ours, real tokens/s", "PEFT, real tokens/s"]
    head.append("PEFT's seconds / ours")
    if not rows:
        return []
    return markdown(head, rows)


def phase_table(cases: list[dict[str, Any]]) -> list[str]:
    shown = _phases_above(0.0005, cases)
    rows = []
    for case in cases:
        row = [case["label"] or "-"]
        for name in shown:
            phase = case["phases"][name]
            row.append(f"{phase['median']:.3g} ({phase['share']:.0%})")
        rows.append(row)
    return markdown(["seconds (share of the step)", *shown], rows)


def _phases_above(share: float, cases: list[dict[str, Any]]) -> list[str]:
    """Phases with at least this share of a step of any case."""
    out = []
    for name in PHASES:
        if any(case["phases"][name]["share"] >= share for case in cases):
            out.append(name)
    return out


def markdown(head: list[str], rows: list[list[str]]) -> list[str]:
    """A table that can be read as text too."""
    return core.markdown_table([[cell.replace("|", "/") for cell in row] for row in [head, *rows]])


def chart(file: Path, content: dict[str, Any]) -> None:
    """Phases of every case; of a sweep over one number its tokens a second instead."""
    cases = content["cases"]
    (key, *more) = cases[0]["changed"] or [""]
    title = f"{content['mode']} of {content['backbone']}, {counted(content['world_size'], 'rank')}"
    real, computed = [], []
    for case in cases:
        number = _number(case["changed"].get(key))
        if number is not None:
            real.append((number, case["tokens_per_s"]))
            computed.append((number, case["computed_tokens_per_s"]))
    if key and not more and len(cases) > 2 and len(real) == len(cases):
        core.line_chart(
            file, title, across=key, upwards="tokens/s", series={"real": sorted(real), "computed": sorted(computed)}
        )
        return
    labels, notes = [], []
    for case in cases:
        labels.append(case["label"] or case["sharding"])
        notes.append(f"{case['tokens_per_s']:,.0f} real tokens/s")
    parts = {}
    for name in _phases_above(0.002, cases):
        parts[name] = [case["phases"][name]["median"] for case in cases]
    core.stacked_bar_chart(file, title, unit="seconds of a step", labels=labels, parts=parts, notes=notes)


def _number(text: Any) -> float | None:
    try:
        return float(text)
    except (TypeError, ValueError):
        return None


def _gb(size: int | None) -> str:
    return "-" if size is None else f"{size / GB:.2f}"
