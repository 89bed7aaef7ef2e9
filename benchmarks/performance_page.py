"""docs/performance.md from the JSON under benchmarks/results/: every figure with the command that made it, and where we
are not faster.

python -m benchmarks.performance_page --results benchmarks/results --output docs/performance.md
"""

import argparse
import json
import statistics
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.common.workload import REGIMES, SHAPES
from engine.core import protect

FASTER = 1.1  # a ratio below stands in the list of regimes where we are not faster


@dataclass(frozen=True)
class Ratio:
    """The peer's seconds (or bytes) over ours, in a regime."""

    where: str
    value: float
    detail: str = ""


@dataclass
class Section:
    """One benchmark. ``lines``: its table and what must be known to read it."""

    title: str
    command: str
    lines: list[str]
    ratios: list[Ratio] = field(default_factory=list)


Content = Any  # of one results file


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return ["| " + " | ".join(head) + " |", "|" + "---|" * len(head), *("| " + " | ".join(row) + " |" for row in rows)]


def vs_peft(cases: Content) -> Section:
    rows, ratios = [], []
    for c in cases:
        kept = ", teacher kept" if c["teacher_cache"] else ""
        name = f"{c['shape']}, R = {REGIMES[c['regime']][0]}, {c['stage']}{kept}{_sizes(c)}"
        mine, row = c["methods"]["packed"], [name]
        for peer in ("peft", "plain"):
            found = c.get(f"packed_vs_{peer}")
            if found is None:
                row.append("-")
                continue
            r = found["ratio"]
            row.append(f"{r['median']:.2f} ({r['p10']:.2f}-{r['p90']:.2f}), {found['operation_bound']:.2f}")
            ratios.append(
                Ratio(f"a step of {name}, against {'PEFT' if peer == 'peft' else 'our plain formulation'}", r["median"])
            )
        theirs = c["methods"].get("peft", {})
        row += [
            f"{_median(theirs)} / {_median(mine)}",
            f"{_gb(theirs.get('peak_bytes'))} / {_gb(mine.get('peak_bytes'))}",
        ]
        rows.append(row)
    head = [
        "",
        "against PEFT (10th-90th), operations allow",
        "against our plain formulation, operations allow",
        "seconds PEFT / ours",
        "peak memory PEFT / ours",
    ]
    note = (
        "32 samples of 4 tasks where nothing else is said, L = 100 (pocket: 16); R is a sample's mean length in "
        "tokens. PEFT's multitask prompt tuning on the same model, samples and token budget, length-grouped "
        "batches, SDPA, no checkpointing. PEFT runs transformers' own operators, on a GPU too, where ours are "
        "joined. It runs gpt-oss on our packed experts, for transformers cannot train through MXFP4, and with "
        "eager attention. PEFT makes logits at every position: `logits_to_keep` does not fit labels of rows that "
        "are padded on the right. The one forward pass that keeps a teacher is not in a step. Operations: "
        "multiply-adds, attention counted; what lies above them is memory traffic of logits that are not made."
    )
    command = "python -m benchmarks.vs_peft --output benchmarks/results/vs_peft_cpu.json"
    return Section("A training step beside PEFT", command, [note, "", *table(head, rows)], ratios)


def _sizes(c: Content) -> str:
    """Of a case whose samples, tasks or layers are not its shape's."""
    shape, out = SHAPES[c["shape"]], ""
    samples, tasks = c.get("samples", shape.samples), c.get("tasks", shape.tasks)
    if (samples, tasks) != (shape.samples, shape.tasks):
        out += f", {samples} samples of {tasks} tasks"
    layers = shape.card["num_hidden_layers"]
    return out + (f", {c['layers']} layers" if c.get("layers", layers) != layers else "")


def one_pass(c: Content) -> Section:
    low, high = c["ratio_from_to"]
    name = (
        f"{c['tasks']} teachers, {c['examples']} examples each, {c['shape']} shape, {c['world_size']} ranks, ZeRO-3 "
        "with offload"
    )
    seconds, moved = c["step_seconds"], c["gather_bytes"]
    rows = [
        [
            name,
            f"{c['ratio']:.2f} ({low:.2f}-{high:.2f})",
            f"{seconds['one run each']:.2f} / {seconds['one pass']:.2f}",
            f"{moved['one run each'] / 1e6:.1f} / {moved['one pass'] / 1e6:.1f} MB",
        ]
    ]
    return Section(
        "All teachers in one pass",
        "torchrun --nproc_per_node 2 -m benchmarks.one_pass --output benchmarks/results/one_pass_cpu.json",
        table(["", "one pass against one run each", "seconds", "gathered"], rows),
        [Ratio("one pass against one run each", c["ratio"])],
    )


def loss(content: Content) -> Section:
    rows, ratios = [], []
    pairs = {
        "cross-entropy": ("ce: plain", "ce: ours"),
        "distillation": ("distil: plain", "distil: ours"),
        "distillation, teacher kept": ("distil: plain", "distil: ours, teacher kept"),
        "cross-entropy, against Liger": ("ce: liger", "ce: ours"),
    }
    for c in content["cases"]:
        for what, (peer, own) in pairs.items():
            if peer in c["seconds"] and own in c["seconds"]:
                name, value = f"{what}, V = {c['vocabulary']:,}", c["seconds"][peer] / c["seconds"][own]
                rows.append([name, f"{value:.2f}", f"{c['seconds'][peer]:.3f} / {c['seconds'][own]:.3f}"])
                ratios.append(Ratio(f"the loss alone, {name}", value, "chunks bound its memory"))
    lines = [
        "With its gradient, through the frozen head, against whole logits and autograd.",
        "",
        *table(["", "ratio", "seconds peer / ours"], rows),
    ]
    return Section(
        "The loss alone", "python -m benchmarks.loss --output benchmarks/results/loss_cpu.json", lines, ratios
    )


# ways of attention, the one that is used where it can be first
ATTENDED = ("in parts", "gathered, one call", "gathered")


def attention(content: Content) -> Section:
    rows, ratios = [], []
    for c in content["cases"]:
        seconds = c["seconds"]
        own = next(way for way in ATTENDED if way in seconds)
        row = [c["size"], *(f"{1e3 * seconds[way]:.2f}" if way in seconds else "-" for way in (*ATTENDED, "padded"))]
        rows.append([*row, f"{c['operations'] / seconds[own] / 1e12:.2f}"])
        for peer, what in (("gathered", "gathered keys in padded calls"), ("padded", "a padded batch")):
            if peer in seconds and peer != own:
                ratios.append(Ratio(f"attention, {c['size']}, against {what}", seconds[peer] / seconds[own]))
    note = (
        "Forward and backward, in ms. In parts: two calls of flash attention, on a GPU alone, in layers without "
        "a window. Gathered, one call: a GPU's way "
        "in layers with a window. Gathered: the way of CPUs, samples of like length in one padded call. Padded: "
        "PyTorch's attention with the prompt before "
        "every sample. TFLOP/s are of the one that is used."
    )
    return Section(
        "Attention of a packed row",
        "python -m benchmarks.attention --output benchmarks/results/attention_cpu.json",
        [note, "", *table(["", *ATTENDED, "padded", "TFLOP/s"], rows)],
        ratios,
    )


def roofline(content: Content) -> Section:
    rows = []
    for c in content["cases"]:
        longest = ", ".join(f"{kind} {1e3 * cost['seconds']:.0f}" for kind, cost in list(c["longest"].items())[:6])
        rows.append(
            [
                f"{c['shape']}, row of {c['row']:,}, {c['stage']}",
                f"{c['launches']:,}",
                f"{c['bytes'] / 1e9:,.0f} GB",
                f"{c['operations'] / 1e12:.0f}",
                f"{1e3 * c['seconds']:,.0f}",
                f"{c['matrix_share']:.2f}",
                longest,
            ]
        )
    on = content["modelled_on"]
    note = (
        "One micro-batch at full size, forward and backward, weights resident: counted, not measured. Each "
        "operator takes as long as its bytes "
        f"({on['memory_bytes_per_s'] / 1e12:.2f} TB/s), its matrix products "
        f"({on['matrix_operations_per_s'] / 1e12:.0f} TFLOP/s) or a launch "
        f"({1e6 * on['launch_s']:.0f} us), whichever is longest. What is not matrix products is what joining "
        "operators could save."
    )
    head = ["", "operators", "moved", "TFLOP", "ms", "share of matrix products", "longest, ms"]
    command = "python -m benchmarks.roofline --output benchmarks/results/roofline_modelled.json"
    return Section("What a GPU has to do", command, [note, "", *table(head, rows)])


def loader(c: Content) -> Section:
    seconds = {who: statistics.median(values) for who, values in c["seconds"].items()}
    ratio = statistics.median(c["ratio"])
    rows = [
        [
            f"{c['bytes'] / 1e9:.1f} GB on {c['ranks']} ranks",
            f"{ratio:.1f} ({min(c['ratio']):.1f}-{max(c['ratio']):.1f})",
            f"{seconds['from_pretrained']:.1f} / {seconds['ours']:.1f}",
            f"{c['peak_bytes']['from_pretrained'] / 1e9:.2f} / {c['peak_bytes']['ours'] / 1e9:.2f} GB",
        ]
    ]
    note = (
        "A rank's peak may be its half of the model and a tenth of the largest tensor: "
        f"{c['allowed_bytes'] / 1e9:.3f} GB."
    )
    command = "python -m benchmarks.loader --folder runs/loader --output benchmarks/results/loader_cpu.json"
    return Section(
        "Loading into shards",
        command,
        [*table(["", "against from_pretrained under DeepSpeed", "seconds", "peak of a rank"], rows), "", note],
        [
            Ratio("loading", ratio),
            Ratio("peak memory of loading", c["peak_bytes"]["from_pretrained"] / c["peak_bytes"]["ours"]),
        ],
    )


def evaluation(content: Content) -> Section:
    rows, ratios = [], []
    for c in content["cases"]:
        name, best = f"{c['shape']}, {c['kind']}, L = {c['prompt_length']}, R = {REGIMES[c['regime']][0]}", c["best"]
        rows.append(
            [
                name,
                f"{c['ratio']:.2f} ({min(c['ratios']):.2f}-{max(c['ratios']):.2f})",
                f"{c['token_ratio']:.2f}",
                f"{c['seconds'][best['transformers']]:.2f} / {c['seconds'][best['ours']]:.2f}",
                f"{c['same_answers']} of {c['samples']}",
            ]
        )
        ratios.append(Ratio(f"answers, {name}", c["ratio"], f"tokens allow {c['token_ratio']:.2f}"))
    for shape, total in content["whole"].items():
        rows.append(
            [
                f"**{shape}, whole**",
                f"{total['ratio']:.2f}",
                "",
                f"{total['transformers']:.2f} / {total['ours']:.2f}",
                "",
            ]
        )
    note = (
        "A test split's answers, greedy and by choice among options, against transformers with the prompt before "
        "each sample, both at their fastest width."
    )
    return Section(
        "Answers",
        "python -m benchmarks.evaluation --output benchmarks/results/evaluation_cpu.json",
        [
            note,
            "",
            *table(["", "ratio", "sharing allows, by tokens", "seconds transformers / ours", "same answers"], rows),
        ],
        ratios,
    )


def lora(content: Content) -> Section:
    rows = [
        [c["size"], f"{c['ratio']:.2f}", f"{c['seconds']['peft']:.2f} / {c['seconds']['ours']:.2f}"]
        for c in content["cases"]
    ]
    ratios = [Ratio(f"LoRA adapters, {c['size']}", c["ratio"]) for c in content["cases"]]
    note = (
        "A step of one LoRA adapter a task (r = 16, eight samples each): rows of one bank in packed rows against "
        "stock PEFT, adapter after adapter."
    )
    return Section(
        "LoRA adapters, many at once",
        "python -m benchmarks.lora --output benchmarks/results/lora_cpu.json",
        [note, "", *table(["", "against PEFT", "seconds PEFT / ours"], rows)],
        ratios,
    )


def projection(content: Content) -> Section:
    rows, ratios = [], []
    for c in content["cases"]:
        own = "kernels" if "kernels" in c["seconds"] else "eager"
        for peer in (p for p in ("peft", "compiled", "eager") if p in c["seconds"] and p != own):
            value, who = (
                c["seconds"][peer] / c["seconds"][own],
                {"peft": "PEFT's operation", "compiled": "torch.compile", "eager": "eager torch"}[peer],
            )
            rows.append(
                [c["size"], who, f"{value:.2f}", f"{c['seconds'][peer] * 1e3:.2f} / {c['seconds'][own] * 1e3:.2f}"]
            )
            ratios.append(
                Ratio(
                    f"the projection, {c['size']}, against {who}",
                    value,
                    "eager torch is what runs without a GPU" if own == "eager" else "",
                )
            )
    note = (
        "Prompts into the packed row and their gradient out of it. It is a small part of a step: `benchmark` says "
        "how small (`kernel_share`)."
    )
    return Section(
        "The projection of prompts",
        "python -m benchmarks.projection --output benchmarks/results/projection_cpu.json",
        [note, "", *table(["", "against", "ratio", "ms peer / ours"], rows)],
        ratios,
    )


def checkpoint(content: Content) -> Section:
    rows = []
    for c in content["cases"]:
        s, path = c["seconds"], "on the step's path"
        share = (
            f"{c['share_of_100_steps']:.3%} of 100 steps"
            if "share_of_100_steps" in c
            else (f"below 1 % of 100 steps of {c['shortest_step_below_1_percent'] * 1e3:.0f} ms")
        )
        rows.append(
            [c["size"], f"{s[path] * 1e3:.2f}", f"{s['processor'] * 1e3:.1f}", f"{c['bytes'] / 1e6:.2f}", share]
        )
    return Section(
        "Checkpoints",
        "python -m benchmarks.checkpoint --output benchmarks/results/checkpoint_cpu.json",
        table(["", "ms on the step's path", "ms of a processor beside it", "MB", "cost"], rows),
    )


def long_notes(content: Content) -> Section:
    by_length: dict[tuple[str, int], dict[bool, Any]] = {}
    for c in content["cases"]:
        by_length.setdefault((c["shape"], c["length"]), {})[c["recomputed"]] = c
    rows = []
    for (shape, length), both in sorted(by_length.items()):
        kept, again = both[False], both[True]
        rows.append(
            [
                f"{shape}, {length:,} tokens",
                f"{kept['peak_bytes'] / 1e9:.2f} ({kept['predicted_bytes'] / 1e9:.2f})",
                f"{again['peak_bytes'] / 1e9:.2f} ({again['predicted_bytes'] / 1e9:.2f})",
                f"{kept['seconds']:.1f} / {again['seconds']:.1f}",
            ]
        )
    head = ["", "peak in GB, all kept (predicted)", "layers recomputed (predicted)", "seconds kept / recomputed"]
    return Section(
        "Long notes",
        "python -m benchmarks.long_notes --output benchmarks/results/long_notes_cpu.json",
        table(head, rows),
    )


def planning(cases: Content) -> Section:
    rows = [
        [
            c["name"],
            f"{c['memory_error']:+.0%}",
            f"{c['seconds_error']:+.0%}",
            f"{c['spread']:.0%}",
            "equal" if c["bytes_equal"] else "**other**",
        ]
        for c in cases
    ]
    note = (
        "Predicted less measured, over measured; the machine calibrated in the same run. Figures and misses: "
        "[planning.md](planning.md#predicted-beside-measured)."
    )
    return Section(
        "What `plan` predicts",
        "python -m benchmarks.planning --docs docs/planning.md --output benchmarks/results/planning_cpu.json",
        [
            note,
            "",
            *table(["", "peak memory of a rank", "a step", "spread of the measured steps", "bytes received"], rows),
        ],
    )


def ceilings(content: Content) -> Section:
    rows = []
    for c in content["cases"]:
        product = c["unit"] == "operations"
        rows.append(
            [c["size"], f"{c['per_second'] / 1e12:,.1f} TFLOP/s" if product else f"{c['per_second'] / 1e9:,.0f} GB/s"]
        )
    return Section(
        "Ceilings of a GPU",
        "python -m benchmarks.ceilings --output benchmarks/results/ceilings_cpu.json",
        table(["", "reached"], rows),
    )


def gpu(content: Content) -> Section:
    """Whole steps; parts that failed or were left out are named."""
    rows, peak = [], content["peak_operations_per_s"]
    missing = []
    for part in content["parts"]:
        if "left_out" in part:
            missing.append(f"{part['name']} was left out: it {part['left_out']}")
        elif part["exit_code"] != 0:
            missing.append(f"{part['name']} {'was ended at its limit' if part['exit_code'] is None else 'failed'}")
        for c in part.get("cases", []):
            reached = "-" if c["mfu"] is None or not peak else f"{c['mfu'] * peak / 1e12:,.0f} ({c['mfu']:.0%})"
            held = "-" if c["peak_gpu_bytes"] is None else f"{c['peak_gpu_bytes'] / 1e9:.1f}"
            rows.append(
                [
                    f"{part['name']}, {c['placement']}, teacher {c['teacher']}",
                    f"{c['step_seconds']['median']:.3f}",
                    f"{c['tokens_per_s']:,.0f}",
                    reached,
                    held,
                    f"{c['h2d_bytes_per_step'] / 1e9:.1f}",
                ]
            )
    measured = next((" ".join(p["command"]) for p in content["parts"] if "cases" in p), "")
    note = (
        f"Steps of a whole distillation on invented samples of 21 tasks, the first with `{measured}`. TFLOP/s "
        "and, of the maker's peak, MFU count 4 N a "
        "real token, also where a teacher is asked besides. Ceilings of the same card stand below."
    )
    head = ["", "seconds a step", "real tokens/s", "TFLOP/s (MFU)", "GPU GB", "GB uploaded a step"]
    lines = [note, "", *table(head, rows), *(["", *(f"- {m}" for m in missing)] if missing else [])]
    return Section("Whole steps on a GPU", "python -m benchmarks.gpu --output benchmarks/results/gpu_cpu.json", lines)


SECTIONS: dict[str, Callable[[Content], Section]] = {
    "gpu": gpu,
    "ceilings": ceilings,
    "vs_peft": vs_peft,
    "one_pass": one_pass,
    "lora": lora,
    "evaluation": evaluation,
    "attention": attention,
    "loss": loss,
    "projection": projection,
    "roofline": roofline,
    "loader": loader,
    "checkpoint": checkpoint,
    "long_notes": long_notes,
    "planning": planning,
}


def page(results: Path) -> list[str]:
    """The page, from every results file that is there; those that are not are named."""
    sections, made, missing = [], [], []
    for name, build in SECTIONS.items():
        files = sorted(results.glob(f"{name}_*.json"))
        if not files:
            missing.append(f"`benchmarks/{name}.py`")
        for file in files:
            content = json.loads(file.read_text())
            sections.append(build(content))
            sections[-1].command = sections[-1].command.replace(f"{name}_cpu.json", file.name)
            made.append(made_on(content))
    slow = sorted((r for s in sections for r in s.ratios if r.value < FASTER), key=lambda r: r.value)
    whole = sum(len(s.ratios) for s in sections)
    out = [
        "# How fast, beside what",
        "",
        "Written by `python -m benchmarks.performance_page` from `benchmarks/results/`; `make bench` measures "
        "anew what two quiet cores can in a quarter of an "
        "hour, and writes this page again. Ratios are the peer's time (or memory) over ours, from turns on the "
        "same machine: above 1 is ours. "
        "What a cluster does is measured with `python train.py benchmark` ([benchmark.md](benchmark.md)).",
        "",
        "## Where it is not faster",
        "",
        f"Of {whole} ratios on this page {len(slow)} {'is' if len(slow) == 1 else 'are'} below {FASTER}:"
        if slow
        else f"None of the {whole} ratios on this page is below {FASTER}.",
        "",
        *(f"- {r.value:.2f}: {r.where}{f' ({r.detail})' if r.detail else ''}" for r in slow),
    ]
    for section, where in zip(sections, made, strict=True):
        out += ["", f"## {section.title}", "", f"    {section.command}", "", *wrapped(section.lines), "", where]
    out += [
        "",
        "## Not measured",
        "",
        f"No results of {', '.join(missing)}." if missing else "Every benchmark has results.",
    ]
    if not any("GPU" in where for where in made):
        out.append("Nothing on this page was measured on a GPU.")
    return [*out, ""]


def wrapped(lines: Sequence[str]) -> list[str]:
    """Prose in lines of 120 columns; tables, lists and code as they are."""
    out: list[str] = []
    for line in lines:
        prose = line and not line.startswith(("|", "- ", " "))
        out += textwrap.wrap(line, 120, break_long_words=False, break_on_hyphens=False) if prose else [line]
    return out


def made_on(content: Content) -> str:
    """Machine, versions and commit of a results file; of each group of cases where they differ."""
    cases = [content, *content.get("cases", []), *content.get("parts", [])] if isinstance(content, dict) else content
    found: dict[str, list[str]] = {}
    for c in cases:
        m, v = c.get("machine"), c.get("versions")
        if m and v:
            device = (
                f"GPU {m['gpu']}"
                if m["gpu"]
                else f"{m['cpu'] or 'a CPU'}, {m['cores']} cores, {m['threads']} thread{'s' * (m['threads'] > 1)}"
            )
            names = ", ".join(f"{n} {v[n]}" for n in ("torch", "transformers", "deepspeed", "peft") if v and v.get(n))
            found.setdefault(f"{device}; {names}", []).append(c.get("commit") or "unknown")
    if not found:
        return f"No machine was measured; commit {content.get('commit') or 'unknown'}."
    return (
        "Made on: "
        + ". ".join(f"{where}; commit {', '.join(dict.fromkeys(commits))}" for where, commits in found.items())
        + "."
    )


def _median(method: dict[str, Any]) -> str:
    return f"{method['step_seconds']['median']:.2f}" if method else "-"


def _gb(size: int | None) -> str:
    return "-" if not size else f"{size / 1e9:.2f} GB"


def main(arguments: Sequence[str] | None = None) -> None:
    protect()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--output", type=Path, default=Path("docs/performance.md"))
    a = parser.parse_args(arguments)
    a.output.write_text("\n".join(page(a.results)))
    print(f"written {a.output}")


if __name__ == "__main__":
    main()
