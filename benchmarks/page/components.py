"""Sections about components of a step, and about what a device can reach."""

from benchmarks.page.section import Content, Ratio, Section, compared, table


def loss(content: Content) -> Section:
    rows, ratios = [], []
    pairs = {
        "cross-entropy": ("ce: plain", "ce: ours"),
        "distillation": ("distil: plain", "distil: ours"),
        "distillation, teacher cached": ("distil: plain", "distil: ours, teacher cached"),
        "cross-entropy, against Liger": ("ce: liger", "ce: ours"),
    }
    for c in content["cases"]:
        for what, (peer, own) in pairs.items():
            if peer in c["seconds"] and own in c["seconds"]:
                name, value = f"{what}, V = {c['vocabulary']:,}", c["seconds"][peer] / c["seconds"][own]
                rows.append([name, f"{value:.2f}", compared(c["seconds"][peer], c["seconds"][own], 3)])
                ratios.append(Ratio(f"the loss alone, {name}", value, "chunks bound its memory"))
    lines = [
        "The table times the loss and its gradient through the frozen head. The peer computes whole logits and uses "
        "autograd.",
        "",
        *table(["", "ratio", "seconds peer / ours"], rows),
    ]
    return Section(
        "The loss alone", "python -m benchmarks.loss --output benchmarks/results/loss_cpu.json", lines, ratios
    )


# variants of attention; the first available one is used
ATTENDED = ("in parts", "gathered, one call", "gathered")


def attention(content: Content) -> Section:
    rows, ratios = [], []
    for c in content["cases"]:
        seconds = c["seconds"]
        own = next(way for way in ATTENDED if way in seconds)
        row = [c["size"]]
        for way in (*ATTENDED, "padded"):
            row.append(f"{1e3 * seconds[way]:.2f}" if way in seconds else "-")
        rows.append([*row, f"{c['operations'] / seconds[own] / 1e12:.2f}"])
        for peer, what in (("gathered", "gathered keys in padded calls"), ("padded", "a padded batch")):
            if peer in seconds and peer != own:
                ratios.append(Ratio(f"attention, {c['size']}, against {what}", seconds[peer] / seconds[own]))
    notes = [
        "The table lists the time of the forward and backward pass in ms, by variant:",
        "",
        "- In parts: two calls of flash attention, on GPUs in layers without a window.",
        "- Gathered, one call: one call of flash attention over gathered keys, on GPUs in layers with a window.",
        "- Gathered: padded calls over samples of similar length, on CPUs.",
        "- Padded: PyTorch's attention with the prompt before every sample.",
        "",
        "This program uses the first variant of a row that has a time. TFLOP/s belong to that variant.",
    ]
    return Section(
        "Attention of a packed row",
        "python -m benchmarks.attention --output benchmarks/results/attention_cpu.json",
        [*notes, "", *table(["", *ATTENDED, "padded", "TFLOP/s"], rows)],
        ratios,
    )


PROJECTED = {"peft": "PEFT's operation", "compiled": "torch.compile", "eager": "eager torch"}


def projection(content: Content) -> Section:
    rows, ratios = [], []
    for c in content["cases"]:
        seconds = c["seconds"]
        own, detail = "kernels", ""
        if "kernels" not in seconds:
            own, detail = "eager", "without a GPU this program uses eager torch"
        for peer, who in PROJECTED.items():
            if peer in seconds and peer != own:
                value = seconds[peer] / seconds[own]
                rows.append([c["size"], who, f"{value:.2f}", compared(1e3 * seconds[peer], 1e3 * seconds[own])])
                ratios.append(Ratio(f"the projection, {c['size']}, against {who}", value, detail))
    note = (
        "This operation writes K prompts of L tokens into the packed row and returns their gradient. d is the hidden "
        "size and R the rank. The operation is a small part of a step. `benchmark` measures its share (`kernel_share`)."
    )
    return Section(
        "The projection of prompts",
        "python -m benchmarks.projection --output benchmarks/results/projection_cpu.json",
        [note, "", *table(["", "against", "ratio", "ms peer / ours"], rows)],
        ratios,
    )


def roofline(content: Content) -> Section:
    rows = []
    for c in content["cases"]:
        longest = [f"{kind} {1e3 * cost['seconds']:.0f}" for kind, cost in c["longest"].items()]
        rows.append(
            [
                f"{c['shape']}, row of {c['row']:,}, {c['stage'].replace('teacher asked', 'teacher computed')}",
                f"{c['launches']:,}",
                f"{c['bytes'] / 1e9:,.0f} GB",
                f"{c['operations'] / 1e12:.0f}",
                f"{1e3 * c['seconds']:,.0f}",
                f"{c['matrix_share']:.2f}",
                ", ".join(longest[:6]),
            ]
        )
    on = content["modelled_on"]
    note = (
        "These figures are counted, not measured. They cover the forward and backward pass of one micro-batch at full "
        "size, with the weights on the GPU. Bytes move at "
        f"{on['memory_bytes_per_s'] / 1e12:.2f} TB/s, matrix products run at "
        f"{on['matrix_operations_per_s'] / 1e12:.0f} TFLOP/s, and a launch takes {1e6 * on['launch_s']:.0f} us. "
        "The longest of the three is the time of an operator. "
        "Fusing operators can save at most the time outside matrix products."
    )
    head = ["", "operators", "bytes moved", "TFLOP", "ms", "share of matrix products", "longest operators, ms"]
    command = "python -m benchmarks.roofline --output benchmarks/results/roofline_modelled.json"
    return Section("What a GPU has to do", command, [note, "", *table(head, rows)])


def ceilings(content: Content) -> Section:
    rows = []
    for c in content["cases"]:
        product = c["unit"] == "operations"
        reached = f"{c['per_second'] / 1e12:,.1f} TFLOP/s" if product else f"{c['per_second'] / 1e9:,.0f} GB/s"
        rows.append([c["size"], reached])
    return Section(
        "Ceilings of a GPU",
        "python -m benchmarks.ceilings --output benchmarks/results/ceilings_cpu.json",
        ["These are the rates that the card reached in single operations.", "", *table(["", "rate"], rows)],
    )
