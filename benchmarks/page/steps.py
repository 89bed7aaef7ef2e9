"""Sections about whole training steps."""

from benchmarks.common.workload import REGIMES, SHAPES
from benchmarks.page.section import Content, Ratio, Section, compared, gigabytes, median_seconds, spread, table

PEFT_NOTES = [
    "A case has 32 samples of 4 tasks unless its name says otherwise. The prompt length L is 100 (pocket: 16). R is "
    "the mean length of a sample in tokens. PEFT trains multitask prompt tuning on the same model, samples and token "
    "budget:",
    "",
    "- Its batches are grouped by length. It uses SDPA and no activation checkpointing.",
    "- It runs the operators of transformers. On a GPU this program uses fused operators.",
    "- gpt-oss runs on our packed experts, because transformers cannot train through MXFP4. Its attention is eager.",
    "- It computes logits at every position. `logits_to_keep` does not fit labels of rows with padding on the right.",
    "",
    "A step does not include the single forward pass that caches a teacher. The operation bound is the ratio of "
    "multiply-adds, attention included. Ratios above the bound come from the memory traffic of logits that this "
    "program does not compute.",
]


def vs_peft(cases: Content) -> Section:
    rows, ratios = [], []
    for c in cases:
        kept = ", teacher cached" if c["teacher_cache"] else ""
        name = f"{c['shape']}, R = {REGIMES[c['regime']][0]}, {c['stage']}{kept}{_sizes(c)}"
        mine, row = c["methods"]["packed"], [name]
        for peer, peer_name in (("peft", "PEFT"), ("plain", "padded batching")):
            found = c.get(f"packed_vs_{peer}")
            if found is None:
                row.append("-")
                continue
            r = found["ratio"]
            row.append(f"{spread(r['median'], r['p10'], r['p90'])}, {found['operation_bound']:.2f}")
            ratios.append(Ratio(f"a step of {name}, against {peer_name}", r["median"]))
        theirs = c["methods"].get("peft", {})
        row += [
            f"{median_seconds(theirs)} / {median_seconds(mine)}",
            f"{gigabytes(theirs.get('peak_bytes'))} / {gigabytes(mine.get('peak_bytes'))}",
        ]
        rows.append(row)
    head = [
        "",
        "ratio to PEFT (10th-90th percentile), operation bound",
        "ratio to padded batching (10th-90th percentile), operation bound",
        "seconds PEFT / ours",
        "peak memory PEFT / ours",
    ]
    command = "python -m benchmarks.vs_peft --output benchmarks/results/vs_peft_cpu.json"
    return Section("A training step beside PEFT", command, [*PEFT_NOTES, "", *table(head, rows)], ratios)


def _sizes(c: Content) -> str:
    """Of a case whose samples, tasks or layers are not its shape's."""
    shape, out = SHAPES[c["shape"]], ""
    samples, tasks = c.get("samples", shape.samples), c.get("tasks", shape.tasks)
    if (samples, tasks) != (shape.samples, shape.tasks):
        out += f", {samples} samples of {tasks} tasks"
    layers = c.get("layers", shape.card["num_hidden_layers"])
    if layers != shape.card["num_hidden_layers"]:
        out += f", {layers} layers"
    return out


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
            spread(c["ratio"], low, high),
            compared(seconds["one run each"], seconds["one pass"]),
            f"{compared(moved['one run each'] / 1e6, moved['one pass'] / 1e6, 1)} MB",
        ]
    ]
    note = (
        "One pass trains all teachers together, so they share each all-gather of the backbone. The alternative is one "
        "run for each teacher."
    )
    head = ["", "ratio", "seconds one run each / one pass", "all-gathered, one run each / one pass"]
    return Section(
        "All teachers in one pass",
        "torchrun --nproc_per_node 2 -m benchmarks.one_pass --output benchmarks/results/one_pass_cpu.json",
        [note, "", *table(head, rows)],
        [Ratio("one pass against one run each", c["ratio"])],
    )


def lora(content: Content) -> Section:
    rows, ratios = [], []
    for c in content["cases"]:
        rows.append([c["size"], f"{c['ratio']:.2f}", compared(c["seconds"]["peft"], c["seconds"]["ours"])])
        ratios.append(Ratio(f"LoRA adapters, {c['size']}", c["ratio"]))
    note = (
        "A step trains one LoRA adapter for each task, with r = 16 and eight samples each. This program trains all "
        "adapters together in packed rows. PEFT trains one adapter after another."
    )
    return Section(
        "LoRA adapters, many at once",
        "python -m benchmarks.lora --output benchmarks/results/lora_cpu.json",
        [note, "", *table(["", "against PEFT", "seconds PEFT / ours"], rows)],
        ratios,
    )


def gpu(content: Content) -> Section:
    """Whole steps, with the names of parts that failed or were left out."""
    rows, missing, commands = [], [], []
    for part in content["parts"]:
        if "left_out" in part:
            missing.append(f"- {part['name']} was left out: it {part['left_out']}")
        elif part["exit_code"] is None:
            missing.append(f"- {part['name']} was stopped at its time limit")
        elif part["exit_code"] != 0:
            reason = (part["last_lines"] or ["no message"])[-1].partition(". ")[0]
            missing.append(f"- {part['name']} failed, so its numbers are missing here: {reason}")
        if "cases" in part:
            commands.append(" ".join(part["command"]))
        for c in part.get("cases", []):
            rows.append(_gpu_row(part["name"], c, content["peak_operations_per_s"]))
    measured = commands[0] if commands else ""
    note = (
        "Each case is a whole distillation step on invented samples of 21 tasks. The teacher is read from the cache or "
        f"computed in the step. This command measured the first case: `{measured}`. TFLOP/s and MFU count 4 N "
        "operations for each real token, even if the teacher is computed too. MFU is relative to the maker's peak. "
        "Measured ceilings of the card are below."
    )
    head = ["", "seconds a step", "real tokens/s", "TFLOP/s (MFU)", "GPU GB", "GB uploaded a step"]
    lines = [note, "", *table(head, rows)]
    if missing:
        lines += ["", *missing]
    return Section("Whole steps on a GPU", "python -m benchmarks.gpu --output benchmarks/results/gpu_cpu.json", lines)


TEACHER = {"asked": "computed"}  # what results files call it, in the page's words


def _gpu_row(part: str, c: Content, peak: float | None) -> list[str]:
    reached = held = "-"
    if c["mfu"] is not None and peak:
        reached = f"{c['mfu'] * peak / 1e12:,.0f} ({c['mfu']:.0%})"
    if c["peak_gpu_bytes"] is not None:
        held = f"{c['peak_gpu_bytes'] / 1e9:.1f}"
    return [
        f"{part}, {c['sharding']}, teacher {TEACHER.get(c['teacher'], c['teacher'])}",
        f"{c['step_seconds']['median']:.3f}",
        f"{c['tokens_per_s']:,.0f}",
        reached,
        held,
        f"{c['h2d_bytes_per_step'] / 1e9:.1f}",
    ]
