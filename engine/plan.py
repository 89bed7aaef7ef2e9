"""``plan``: what a job would need, before one is submitted. No GPU, no network, no weights: a configuration and a machine in words."""

import json
from dataclasses import asdict
from pathlib import Path

from backbones.sizes import Sizes
from engine import placement
from engine.adaptation import adapt_rows
from engine.adapters import check_adapters
from engine.build_ops import main as build_ops
from engine.config import RunConfig
from engine.errors import UserError
from engine.placement import GB, PLACEMENTS, Machine, Need, Workload
from engine.resolve import value_at
from engine.session import Session
from engine.unseen import hold_unseen

HEADINGS = {"resident": "whole on each device", "sharded_hpz": "sharded, and within nodes", "sharded": "sharded over devices", "offload": "sharded over hosts"}


def plan(config: RunConfig, machine: Machine, output: str, mode: str = "", prepare: bool = False) -> None:
    """Print the memory table of every placement, what ``auto`` takes, and the bytes gathered; JSON to ``output`` if named.

    Args:
        mode: "distill" or "adapt": check what that mode needs of the configuration too.
        prepare: tokenise its corpora and compile what is compiled once, so that a job does not hold its nodes for that.

    Raises:
        UserError: whatever a run of this configuration would be refused with.
    """
    if mode:
        require_key(config, {"distill": "distill.sources", "adapt": "adapt.targets"}[mode])
    session = Session(config)
    if mode == "adapt" and "metaprompt" in config.adapt.methods and not config.adapt.source_run:
        raise UserError("adapt.source_run: missing; name the run directory of the distillation")
    if mode == "distill":
        check_adapters(config, session)
    if prepare:
        tasks = config.adapt.targets if mode == "adapt" else config.distill.tasks
        data = session.data({task: ["train", "validation", "test"] for task in tasks})
        if mode == "distill":
            hold_unseen(data, config.data)
        if mode == "adapt":
            adapt_rows(config, data)  # more shots than a task has examples, say
        build_ops()
    sizes = session.sizes
    work = placement.workload_of(config, sizes)
    names = [p for p in PLACEMENTS if p in placement.possible(machine, "auto")]
    needs = {p: placement.choose(sizes, p, config.recompute, work, machine) for p in names}
    chosen = placement.choose(sizes, placement.asked_for(config), config.recompute, work, machine)
    needs.setdefault(chosen.placement, chosen)
    for line in _table(session, sizes, work, machine, needs, chosen):
        print(line)
    if output:
        content = {
            "run_dir": config.run_dir, "backbone": session.card.name, "numbers": sizes.numbers, "weight_bytes": sizes.weights, "machine": asdict(machine),
            "tokens": work.tokens,
            "chosen": chosen.placement, "fits": chosen.fits(machine),
            "placements": {p: {"recompute": n.recompute, "inputs_offloaded": n.offloaded,
                               "device_bytes": round(n.device), "host_bytes": round(n.host), "fits": n.fits(machine),
                               "gathered_bytes_per_micro_batch": round(gathered(sizes, p, machine)),
                               "uploaded_bytes_per_micro_batch": round(uploaded(sizes, p, machine)),
                               "parts": {k: [round(d), round(h)] for k, (d, h) in n.parts.items()}} for p, n in needs.items()},
        }  # fmt: skip
        Path(output).write_text(json.dumps(content, indent=1) + "\n")


def require_key(config: RunConfig, key: str) -> None:
    if not value_at(config, key):
        raise UserError(f"{key}: missing; name at least one task")


def gathered(sizes: Sizes, name: str, m: Machine) -> float:
    """Bytes that a rank receives from others for one micro-batch of training."""
    group = {"resident": 1, "sharded_hpz": m.ranks_per_node}.get(name, m.world)
    return sizes.moved * (group - 1) / group


def uploaded(sizes: Sizes, name: str, m: Machine) -> float:
    """Bytes of its own shards that a rank sends to its GPU for one micro-batch of training."""
    return sizes.moved / m.world if name == "offload" and m.device == "cuda" else 0.0


def machine_of(nodes: str, gpus_per_node: str, gpu_gb: str, host_gb: str) -> Machine:
    """A machine from flags; ``gpus_per_node: 0`` is one CPU rank a node.

    Raises:
        UserError: every flag that is no number above zero.
    """
    values, problems = {}, []
    for name, text, least in (("nodes", nodes, 1), ("gpus_per_node", gpus_per_node, 0), ("gpu_gb", gpu_gb, 1e-3), ("host_gb", host_gb, 1e-3)):
        try:
            values[name] = float(text)
        except ValueError:
            values[name] = -1.0
        if values[name] < least or (name in ("nodes", "gpus_per_node") and values[name] != int(values[name])):
            problems.append(f"command line: --{name}: {text!r} is no {'whole number' if name in ('nodes', 'gpus_per_node') else 'number'} from {least:g} up")
    if problems:
        raise UserError(problems)
    gpus = int(values["gpus_per_node"])
    return Machine(int(values["nodes"]), gpus or 1, "cuda" if gpus else "cpu", int(values["gpu_gb"] * GB), int(values["host_gb"] * GB))


def _table(session: Session, sizes: Sizes, work: Workload, m: Machine, needs: dict[str, Need], chosen: Need) -> list[str]:
    card, ranks = session.card, f"{m.nodes} x {m.ranks_per_node} {'GPUs' if m.device == 'cuda' else 'CPU ranks'}"
    out = [
        f"{card.name}: {sizes.numbers / 1e9:.2f} billion numbers, {sizes.weights / GB:.2f} GB as loaded ({card.dtype}"
        f"{', experts MXFP4' if sizes.widened[0] else ''}), {len(sizes.layers)} layers",
        f"{ranks}, {placement.free(m)}; micro-batches of {work.tokens:,} tokens, L = {session.config.prompt.length}",
        "",
    ]
    parts = list(dict.fromkeys(part for n in needs.values() for part in n.parts))
    rows = [["GB a rank", *needs], ["", *(HEADINGS[p] for p in needs)]]
    rows += [[part, *(_cell(*n.parts.get(part, (0, 0))) for n in needs.values())] for part in parts]
    rows.append(["device" if m.device == "cuda" else "in all", *(f"{(n.device + (n.host if m.device == 'cpu' else 0)) / GB:.2f}" for n in needs.values())])
    if m.device == "cuda":
        rows.append(["host, all ranks of a node", *(f"{n.host * m.ranks_per_node / GB:.2f}" for n in needs.values())])
        rows.append(["uploaded per micro-batch", *(f"{uploaded(sizes, p, m) / GB:.2f}" for p in needs)])
    rows.append(["layers recomputed", *(f"{n.recompute}{', offloaded' if n.offloaded else ''}" for n in needs.values())])
    rows.append(["received per micro-batch", *(f"{gathered(sizes, p, m) / GB:.2f}" for p in needs)])
    rows.append(["fits", *("yes" if n.fits(m) else "no" for n in needs.values())])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        out.append("  ".join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))]).rstrip())
    how = "chosen" if session.config.placement == "auto" and not session.config.deepspeed else "asked for"
    verdict = "" if chosen.fits(m) else f", but needs more than the {placement.USABLE:.0%} of free memory that can be counted on"
    return [*out, "", f"{how}: {chosen.placement}{verdict}"]


def _cell(device: float, host: float) -> str:
    if not device and not host:
        return "-"
    return f"{device / GB:.2f}" if not host else f"{host / GB:.2f} on the host"
