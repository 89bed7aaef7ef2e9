"""``plan``: what a job would need and take, before one is submitted. No GPU, no network, no weights: a
configuration and a machine in words.
"""

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from backbones.tracing import ModelFootprint
from engine import distributed
from engine.config import RunConfig, value_at
from engine.core import UserError
from engine.data import decontaminate
from engine.distributed import GB, SHARDINGS, DeviceKind, Machine, MemoryEstimate, MicroBatchShape, read_kind
from engine.planning.format import columns, size, stage_json, time_lines
from engine.planning.planner import Case, Planner
from engine.planning.step_workload import Assumed
from engine.planning.sweep import Sweep, drawn, scaling, sweep_lines
from engine.training import RunContext, adapt_rows, check_adapters

HEADINGS = {
    "replicated": "whole on each device",
    "zero3_hpz": "sharded, and within nodes",
    "zero3": "sharded over devices",
    "zero3_offload": "sharded over hosts",
}


@dataclass(frozen=True)
class Asked:
    """Of one plan. mode: distill or adapt, to check what that needs too, or empty. prepare: tokenise its corpora and
    compile what is compiled once, so that a job does not hold its nodes for that. device: None for memory and bytes
    alone. sweep, png: settings to try one after another, and where to draw them.
    """

    mode: str = ""
    prepare: bool = False
    device: DeviceKind | None = None
    assumed: Assumed | None = None
    sweep: Sweep | None = None
    png: str = ""
    output: str = ""


@dataclass
class Findings:
    """lines: for the terminal. content: for the JSON file."""

    lines: list[str] = field(default_factory=list)
    content: dict[str, Any] = field(default_factory=dict)


def plan(config: RunConfig, machine: Machine, asked: Asked) -> None:
    """Print the memory table of every sharding, what ``auto`` takes, the bytes gathered and, on a known device, times;
    JSON to ``asked.output`` if named.

    Raises:
        UserError: whatever a run of this configuration would be refused with.
    """
    run_context = _checked(config, asked)
    planner = Planner(run_context, asked.mode, asked.device, asked.assumed or assumed_of(config))
    found = _memory(planner, config, machine)
    if asked.device is not None:
        _time(planner, config, machine, asked, found)
    for line in found.lines:
        print(line)
    if asked.output:
        Path(asked.output).write_text(json.dumps(found.content, indent=1) + "\n")


def _checked(config: RunConfig, asked: Asked) -> RunContext:
    mode = asked.mode
    if mode:
        require_key(config, {"distill": "distill.sources", "adapt": "adapt.targets"}[mode])
    run_context = RunContext(config)
    if mode == "adapt" and "metaprompt" in config.adapt.methods and not config.adapt.source_run:
        raise UserError("adapt.source_run: missing; name the run directory of the distillation")
    if mode == "distill":
        check_adapters(config, run_context)
    if asked.prepare:
        tasks = config.adapt.targets if mode == "adapt" else config.distill.tasks
        data = run_context.data({task: ["train", "validation", "test"] for task in tasks})
        if mode == "distill":
            decontaminate(data, config.data)
        if mode == "adapt":
            adapt_rows(config, data)  # more shots than a task has examples, say
        distributed.build_collectives()
    return run_context


def require_key(config: RunConfig, key: str) -> None:
    if not value_at(config, key):
        raise UserError(f"{key}: missing; name at least one task")


def assumed_of(config: RunConfig, sample_tokens: str = "", answer_tokens: str = "", examples: str = "") -> Assumed:
    """Lengths to count with where no corpus can be read; by default a quarter of the longest sample, a sixteenth of
    that the answer.

    Raises:
        UserError: every flag that is no whole number above zero, and lengths that do not go together.
    """
    problems, values = [], {}
    default = {"sample_tokens": max(2, config.data.max_length // 4), "answer_tokens": 0, "task_examples": 10_000}
    for name, text in (("sample_tokens", sample_tokens), ("answer_tokens", answer_tokens), ("task_examples", examples)):
        values[name] = default[name]
        if text:
            if not text.isdigit() or not int(text):
                problems.append(f"command line: --{name}: {text!r} is no whole number above 0")
            else:
                values[name] = int(text)
    values["answer_tokens"] = values["answer_tokens"] or max(1, values["sample_tokens"] // 16)
    if not problems and values["sample_tokens"] > config.data.max_length:
        problems.append(
            f"command line: --sample_tokens: {values['sample_tokens']} is above data.max_length, "
            f"{config.data.max_length}"
        )
    if not problems and values["answer_tokens"] >= values["sample_tokens"]:
        problems.append(
            f"command line: --answer_tokens: {values['answer_tokens']} leaves nothing of --sample_tokens "
            f"{values['sample_tokens']}"
        )
    if problems:
        raise UserError(problems)
    return Assumed(values["sample_tokens"], values["answer_tokens"], values["task_examples"])


def device_of(gpu: str, links: dict[str, str]) -> DeviceKind | None:
    """A kind by its name or file, with links of one's own. ``links``: pcie_gbs, nvlink_gbs, network_gbs, in GB/s.

    Raises:
        UserError: every flag that is wrong; links without a kind.
    """
    given = {name: text for name, text in links.items() if text}
    if not gpu:
        if given:
            raise UserError([f"command line: --{name}: name the kind of GPU too (--gpu)" for name in given])
        return None
    problems: list[str] = []
    rates: dict[str, Any] = {}
    for name, text in given.items():
        try:
            rates[{"pcie_gbs": "pcie", "nvlink_gbs": "intra", "network_gbs": "network"}[name]] = float(text) * GB
        except ValueError:
            rates[name] = -1.0
        if not 0 < list(rates.values())[-1] < float("inf"):
            problems.append(f"command line: --{name}: {text!r} is no number of GB/s above 0")
    try:
        kind = read_kind(gpu)
    except UserError as error:
        raise UserError([*error.problems, *problems]) from None
    if problems:
        raise UserError(problems)
    return replace(kind, **rates)


def machine_of(nodes: str, gpus_per_node: str, gpu_gb: str, host_gb: str) -> Machine:
    """A machine from flags; ``gpus_per_node: 0`` is one CPU rank a node.

    Raises:
        UserError: every flag that is no number above zero.
    """
    values, problems = {}, []
    for name, text, least in (
        ("nodes", nodes, 1),
        ("gpus_per_node", gpus_per_node, 0),
        ("gpu_gb", gpu_gb, 1e-3),
        ("host_gb", host_gb, 1e-3),
    ):
        try:
            values[name] = float(text)
        except ValueError:
            values[name] = -1.0
        if values[name] < least or (name in ("nodes", "gpus_per_node") and values[name] != int(values[name])):
            problems.append(
                f"command line: --{name}: {text!r} is no "
                f"{'whole number' if name in ('nodes', 'gpus_per_node') else 'number'} from {least:g} up"
            )
    if problems:
        raise UserError(problems)
    gpus = int(values["gpus_per_node"])
    return Machine(
        int(values["nodes"]),
        gpus or 1,
        "cuda" if gpus else "cpu",
        int(values["gpu_gb"] * GB),
        int(values["host_gb"] * GB),
    )


# ---- memory and bytes
# ------------------------------------------------------------------------------------------------------


def _memory(planner: Planner, config: RunConfig, machine: Machine) -> Findings:
    run_context, sizes = planner.run_context, planner.sizes
    work = distributed.micro_batch_shape(config, sizes)
    names = [p for p in SHARDINGS if p in distributed.possible_shardings(machine, "auto")]
    needs = {p: planner.need(config, machine, p) for p in names}
    chosen = planner.need(config, machine)
    needs.setdefault(chosen.sharding, chosen)
    gathered = {p: planner.gathered(config, machine, n) for p, n in needs.items()}
    largest = {p: planner.largest_budget(config, machine, p) for p in needs}
    content = {
        "run_dir": config.run_dir,
        "backbone": run_context.card.name,
        "numbers": sizes.numbers,
        "weight_bytes": sizes.weights,
        "machine": asdict(machine),
        "tokens": work.tokens,
        "chosen": chosen.sharding,
        "fits": chosen.fits(machine),
        "shardings": {
            p: {
                "recomputed_layers": n.recompute,
                "inputs_offloaded": n.offloaded,
                "device_bytes": round(n.device),
                "host_bytes": round(n.host),
                "fits": n.fits(machine),
                "largest_token_budget": largest[p],
                "gathered_bytes_per_micro_batch": gathered[p].bytes,
                "gathers_per_micro_batch": gathered[p].calls,
                "gathered_per_micro_batch": {"intra": gathered[p].intra, "inter": gathered[p].inter},
                "uploaded_bytes_per_micro_batch": gathered[p].uploaded,
                "parts": {k: [round(d), round(h)] for k, (d, h) in n.parts.items()},
            }
            for p, n in needs.items()
        },
    }
    table = _table(run_context, sizes, work, machine, needs, chosen)
    rows = [["received per micro-batch, own node", *(size(g.intra) for g in gathered.values())]]
    if machine.nodes > 1:
        rows.append(["received per micro-batch, other nodes", *(size(g.inter) for g in gathered.values())])
    if machine.device == "cuda":
        rows.append(["uploaded per micro-batch", *(size(g.uploaded) for g in gathered.values())])
    rows.append(
        ["largest max_tokens_per_micro_batch that fits", *(f"{n:,}" if n else "none" for n in largest.values())]
    )
    rows.append(["fits", *("yes" if n.fits(machine) else "no" for n in needs.values())])
    how = "chosen" if config.sharding == "auto" and not config.deepspeed else "asked for"
    verdict = (
        ""
        if chosen.fits(machine)
        else f", but needs more than the {distributed.USABLE:.0%} of free memory that can be counted on"
    )
    return Findings([*table[:3], *columns([*table[3], *rows]), "", f"{how}: {chosen.sharding}{verdict}"], content)


def _table(
    run_context: RunContext,
    sizes: ModelFootprint,
    work: MicroBatchShape,
    m: Machine,
    needs: dict[str, MemoryEstimate],
    chosen: MemoryEstimate,
) -> list[Any]:
    card, ranks = run_context.card, f"{m.nodes} x {m.ranks_per_node} {'GPUs' if m.device == 'cuda' else 'CPU ranks'}"
    head = [
        f"{card.name}: {sizes.numbers / 1e9:.2f} billion numbers, {sizes.weights / GB:.2f} GB as loaded ({card.dtype}"
        f"{', experts MXFP4' if sizes.widened[0] else ''}), {len(sizes.layers)} layers",
        f"{ranks}, {distributed.free_memory_text(m)}; micro-batches of {work.tokens:,} tokens, L = {run_context.config.prompt.num_virtual_tokens}",
        "",
    ]
    parts = list(dict.fromkeys(part for n in needs.values() for part in n.parts))
    rows = [["GB a rank", *needs], ["", *(HEADINGS[p] for p in needs)]]
    rows += [[part, *(_cell(*n.parts.get(part, (0, 0))) for n in needs.values())] for part in parts]
    rows.append(
        [
            "device" if m.device == "cuda" else "in all",
            *(f"{(n.device + (n.host if m.device == 'cpu' else 0)) / GB:.2f}" for n in needs.values()),
        ]
    )
    if m.device == "cuda":
        rows.append(["host, all ranks of a node", *(f"{n.host * m.ranks_per_node / GB:.2f}" for n in needs.values())])
    rows.append(
        ["layers recomputed", *(f"{n.recompute}{', offloaded' if n.offloaded else ''}" for n in needs.values())]
    )
    return [*head, rows]


def _cell(device: float, host: float) -> str:
    if not device and not host:
        return "-"
    return f"{device / GB:.2f}" if not host else f"{host / GB:.2f} on the host"


# ---- time
# --------------------------------------------------------------------------------------------------------------------


def _time(planner: Planner, config: RunConfig, machine: Machine, asked: Asked, found: Findings) -> None:
    case = planner.case(config, machine)
    if not case.stages:
        raise UserError("nothing to time: the configuration has neither distill.sources nor adapt.targets")
    knobs = planner.knobs(case)
    found.lines += ["", *time_lines(case, planner.told, knobs)]
    found.content |= _times_json(case, planner.told, knobs)
    if asked.sweep is not None:
        points = scaling(planner, config, machine, asked.sweep)
        found.lines += ["", *sweep_lines(asked.sweep, points)]
        found.content["sweep"] = {"key": asked.sweep.key, "points": [p.as_json() for p in points]}
        if asked.png:
            drawn(asked.sweep, points, Path(asked.png), f"{planner.run_context.card.name} on {case.device.name}")
            found.lines += ["", f"drawn in {asked.png}"]


def _times_json(case: Case, told: str, knobs: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "gpu": asdict(case.device),
        "lengths": told,
        "stages": [stage_json(s) for s in case.stages],
        "node_hours": case.node_hours,
        "binding": case.main.step.binding,
        "knobs": knobs,
    }
