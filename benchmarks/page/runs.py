"""Sections about loading, answers, checkpoints, long notes and predictions."""

import statistics
from typing import Any

from benchmarks.common.workload import REGIMES
from benchmarks.page.section import Content, Ratio, Section, compared, spread, table


def loader(c: Content) -> Section:
    seconds = {who: statistics.median(values) for who, values in c["seconds"].items()}
    ratio = statistics.median(c["ratio"])
    rows = [
        [
            f"{c['bytes'] / 1e9:.1f} GB on {c['ranks']} ranks",
            spread(ratio, min(c["ratio"]), max(c["ratio"]), 1),
            compared(seconds["from_pretrained"], seconds["ours"], 1),
            f"{compared(c['peak_bytes']['from_pretrained'] / 1e9, c['peak_bytes']['ours'] / 1e9)} GB",
        ]
    ]
    note = (
        "Each rank reads only its own shards. The peer is `from_pretrained` under DeepSpeed. The limit for the peak of "
        f"a rank is {c['allowed_bytes'] / 1e9:.3f} GB. That is its half of the model and a tenth of the largest tensor."
    )
    head = ["", "ratio of time", "seconds peer / ours", "peak of a rank, peer / ours"]
    command = "python -m benchmarks.loader --folder runs/loader --output benchmarks/results/loader_cpu.json"
    return Section(
        "Loading into shards",
        command,
        [note, "", *table(head, rows)],
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
                spread(c["ratio"], min(c["ratios"]), max(c["ratios"])),
                f"{c['token_ratio']:.2f}",
                compared(c["seconds"][best["transformers"]], c["seconds"][best["ours"]]),
                f"{c['same_answers']} of {c['samples']}",
            ]
        )
        ratios.append(Ratio(f"answers, {name}", c["ratio"], f"bound by tokens {c['token_ratio']:.2f}"))
    for shape, total in content["whole"].items():
        seconds = compared(total["transformers"], total["ours"])
        rows.append([f"**{shape}, whole**", f"{total['ratio']:.2f}", "", seconds, ""])
    note = (
        "Both programs answer the same test split, by greedy decoding or by choice among options. transformers gets "
        "the prompt before each sample. Each program runs at its fastest batch width. The bound is the ratio that "
        "sharing the tokens of the prompt allows by itself."
    )
    head = ["", "ratio", "bound by tokens", "seconds transformers / ours", "same answers"]
    return Section(
        "Answers",
        "python -m benchmarks.evaluation --output benchmarks/results/evaluation_cpu.json",
        [note, "", *table(head, rows)],
        ratios,
    )


def checkpoint(content: Content) -> Section:
    rows = []
    for c in content["cases"]:
        s, path = c["seconds"], "on the step's path"
        if "share_of_100_steps" in c:
            share = f"{c['share_of_100_steps']:.3%} of 100 steps"
        else:
            share = f"below 1 % of 100 steps of {c['shortest_step_below_1_percent'] * 1e3:.0f} ms"
        rows.append(
            [c["size"], f"{s[path] * 1e3:.2f}", f"{s['processor'] * 1e3:.1f}", f"{c['bytes'] / 1e6:.2f}", share]
        )
    note = (
        "A thread writes a checkpoint while the next steps run. The table lists the time that a step waits, the "
        "processor time of the thread, and the size. The last column counts both times."
    )
    head = ["", "ms that a step waits", "ms of processor time beside it", "MB", "share of training time"]
    return Section(
        "Checkpoints",
        "python -m benchmarks.checkpoint --output benchmarks/results/checkpoint_cpu.json",
        [note, "", *table(head, rows)],
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
                compared(kept["seconds"], again["seconds"], 1),
            ]
        )
    note = (
        "A step trains one sample of the given length. It runs once with all activations kept and once with all layers "
        "recomputed. The predicted peak is in brackets."
    )
    head = ["", "peak GB, kept", "peak GB, recomputed", "seconds kept / recomputed"]
    return Section(
        "Long notes",
        "python -m benchmarks.long_notes --output benchmarks/results/long_notes_cpu.json",
        [note, "", *table(head, rows)],
    )


def planning(cases: Content) -> Section:
    rows = []
    for c in cases:
        received = "equal" if c["bytes_equal"] else "**other**"
        errors = (f"{c['memory_error']:+.0%}", f"{c['seconds_error']:+.0%}", f"{c['spread']:.0%}")
        rows.append([c["name"], *errors, received])
    note = (
        "An error is (predicted - measured) / measured. The machine was calibrated in the same run. "
        "[planning.md](../how_to/planning.md#predicted-beside-measured) lists the values and discusses the errors."
    )
    return Section(
        "What `plan` predicts",
        "python -m benchmarks.planning --docs docs/how_to/planning.md --output benchmarks/results/planning_cpu.json",
        [
            note,
            "",
            *table(["", "error, peak memory", "error, step time", "spread of step time", "bytes received"], rows),
        ],
    )
