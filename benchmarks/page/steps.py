"""Sections about whole training steps."""

from benchmarks.common.workload import REGIMES, SHAPES
from benchmarks.page.section import Content, Ratio, Section, compared, gigabytes, median_seconds, spread, table


def vs_peft(cases: Content) -> Section:
    rows, ratios = [], []
    for c in cases:
        kept = ", teacher cached" if c["teacher_cache"] else ""
        name = f"{c['shape']}, R = {REGIMES[c['regime']][0]}, {c['stage']}{kept}{_sizes(c)}"
        mine, row = c["methods"]["packed"], [name]
        for peer, peer_name in (("peft", "PEFT"), ("plain", "our plain formulation")):
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
    return Section(
        "All teachers in one pass",
        "torchrun --nproc_per_node 2 -m benchmarks.one_pass --output benchmarks/results/one_pass_cpu.json",
        table(["", "one pass against one run each", "seconds", "gathered"], rows),
        [Ratio("one pass against one run each", c["ratio"])],
    )


def lora(content: Content) -> Section:
    rows, ratios = [], []
    for c in content["cases"]:
        rows.append([c["size"], f"{c['ratio']:.2f}", compared(c["seconds"]["peft"], c["seconds"]["ours"])])
        ratios.append(Ratio(f"LoRA adapters, {c['size']}", c["ratio"]))
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


def gpu(content: Content) -> Section:
    """Whole steps; parts that failed or were left out are named."""
    rows, missing, commands = [], [], []
    for part in content["parts"]:
        if "left_out" in part:
            missing.append(f"- {part['name']} was left out: it {part['left_out']}")
        elif part["exit_code"] is None:
            missing.append(f"- {part['name']} was ended at its limit")
        elif part["exit_code"] != 0:
            reason = (part["last_lines"] or ["no message"])[-1].partition(". ")[0]
            missing.append(f"- {part['name']} failed: {reason}")
        if "cases" in part:
            commands.append(" ".join(part["command"]))
        for c in part.get("cases", []):
            rows.append(_gpu_row(part["name"], c, content["peak_operations_per_s"]))
    measured = commands[0] if commands else ""
    note = (
        f"Steps of a whole distillation on invented samples of 21 tasks, the first with `{measured}`. TFLOP/s "
        "and, of the maker's peak, MFU count 4 N a "
        "real token, also where a teacher is asked besides. Ceilings of the same card stand below."
    )
    head = ["", "seconds a step", "real tokens/s", "TFLOP/s (MFU)", "GPU GB", "GB uploaded a step"]
    lines = [note, "", *table(head, rows)]
    if missing:
        lines += ["", *missing]
    return Section("Whole steps on a GPU", "python -m benchmarks.gpu --output benchmarks/results/gpu_cpu.json", lines)


def _gpu_row(part: str, c: Content, peak: float | None) -> list[str]:
    reached = held = "-"
    if c["mfu"] is not None and peak:
        reached = f"{c['mfu'] * peak / 1e12:,.0f} ({c['mfu']:.0%})"
    if c["peak_gpu_bytes"] is not None:
        held = f"{c['peak_gpu_bytes'] / 1e9:.1f}"
    return [
        f"{part}, {c['sharding']}, teacher {c['teacher']}",
        f"{c['step_seconds']['median']:.3f}",
        f"{c['tokens_per_s']:,.0f}",
        reached,
        held,
        f"{c['h2d_bytes_per_step'] / 1e9:.1f}",
    ]
