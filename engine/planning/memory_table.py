"""Memory and bytes of every sharding: ``plan``'s table, and the same for programs."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import chain
from typing import Any

from backbones import Gathered
from engine import distributed
from engine.config import RunConfig
from engine.core import aligned_columns
from engine.distributed import GB, Machine, MemoryEstimate, MicroBatchShape
from engine.planning.format import side_by_side, size, yes_no
from engine.planning.planner import Planner
from strict_yaml import counted

HEADINGS = {
    "replicated": "whole on each device",
    "zero3_hpz": "sharded, and within nodes",
    "zero3": "sharded over devices",
    "zero3_offload": "sharded over hosts",
}


@dataclass
class Findings:
    """lines: for the terminal. content: for the JSON file."""

    lines: list[str] = field(default_factory=list)
    content: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _Placement:
    """A place for the backbone. gathered: by a micro-batch. largest: tokens of one that fits."""

    need: MemoryEstimate
    gathered: Gathered
    largest: int


def memory_findings(planner: Planner, config: RunConfig, machine: Machine) -> Findings:
    """What every sharding needs, and which one a run takes."""
    chosen = planner.need(config, machine)
    needs = [planner.need(config, machine, name) for name in distributed.possible_shardings(machine, "auto")]
    if chosen.sharding not in [need.sharding for need in needs]:
        needs.append(chosen)
    shardings = []
    for need in needs:
        largest = planner.largest_budget(config, machine, need.sharding)
        shardings.append(_Placement(need, planner.gathered(config, machine, need), largest))
    work = distributed.micro_batch_shape(config, planner.sizes)
    table = aligned_columns(side_by_side([_cells(place, _parts(needs), machine) for place in shardings]))
    lines = [*_heading(planner, machine, work), "", *table, "", _verdict(config, machine, chosen)]
    return Findings(lines, _content(planner, config, machine, work, chosen, shardings))


def _verdict(config: RunConfig, machine: Machine, chosen: MemoryEstimate) -> str:
    how = "asked for"
    if config.sharding == "auto" and not config.deepspeed:
        how = "chosen"
    if chosen.fits(machine):
        return f"{how}: {chosen.sharding}"
    most = f"{distributed.USABLE:.0%} of free memory"
    return f"{how}: {chosen.sharding}, but needs more than the {most} that can be counted on"


def _heading(planner: Planner, machine: Machine, work: MicroBatchShape) -> list[str]:
    run_context, sizes, card = planner.run_context, planner.sizes, planner.run_context.card
    dtype = f"{card.dtype}, experts MXFP4" if sizes.widened[0] else card.dtype
    ranks = "GPUs" if machine.device == "cuda" else "CPU ranks"
    return [
        f"{card.name}: {sizes.numbers / 1e9:.2f} billion numbers, {sizes.weights / GB:.2f} GB as loaded ({dtype}), "
        f"{counted(len(sizes.layers), 'layer')}",
        f"{machine.nodes} x {machine.ranks_per_node} {ranks}, {distributed.free_memory_text(machine)}; "
        f"micro-batches of {work.tokens:,} tokens, L = {run_context.config.prompt.num_virtual_tokens}",
    ]


def _parts(needs: Sequence[MemoryEstimate]) -> list[str]:
    """Names of all parts that any sharding has, in order."""
    return list(dict.fromkeys(chain.from_iterable(need.parts for need in needs)))


def _cells(place: _Placement, parts: Sequence[str], machine: Machine) -> dict[str, str]:
    """A column of the table: row -> cell. Memory is in GB of a rank."""
    need, gathered, cuda = place.need, place.gathered, machine.device == "cuda"
    out = {"GB a rank": need.sharding, "": HEADINGS[need.sharding]}
    for part in parts:
        out[part] = _part(*need.parts.get(part, (0, 0)))
    if cuda:
        out["device"] = f"{need.device / GB:.2f}"
        out["host, all ranks of a node"] = f"{need.host * machine.ranks_per_node / GB:.2f}"
    else:
        out["in all"] = f"{(need.device + need.host) / GB:.2f}"
    out["layers recomputed"] = f"{need.recompute}, offloaded" if need.offloaded else str(need.recompute)
    out["received per micro-batch, own node"] = size(gathered.intra)
    if machine.nodes > 1:
        out["received per micro-batch, other nodes"] = size(gathered.inter)
    if cuda:
        out["uploaded per micro-batch"] = size(gathered.uploaded)
    out["largest max_tokens_per_micro_batch that fits"] = f"{place.largest:,}" if place.largest else "none"
    out["fits"] = yes_no(need.fits(machine))
    return out


def _part(device: float, host: float) -> str:
    if host:
        return f"{host / GB:.2f} on the host"
    return f"{device / GB:.2f}" if device else "-"


def _content(
    planner: Planner,
    config: RunConfig,
    machine: Machine,
    work: MicroBatchShape,
    chosen: MemoryEstimate,
    shardings: list[_Placement],
) -> dict[str, Any]:
    return {
        "run_dir": config.run_dir,
        "backbone": planner.run_context.card.name,
        "numbers": planner.sizes.numbers,
        "weight_bytes": planner.sizes.weights,
        "machine": asdict(machine),
        "tokens": work.tokens,
        "chosen": chosen.sharding,
        "fits": chosen.fits(machine),
        "shardings": {place.need.sharding: _placement_json(place, machine) for place in shardings},
    }


def _placement_json(place: _Placement, machine: Machine) -> dict[str, Any]:
    need, gathered = place.need, place.gathered
    return {
        "recomputed_layers": need.recompute,
        "inputs_offloaded": need.offloaded,
        "device_bytes": round(need.device),
        "host_bytes": round(need.host),
        "fits": need.fits(machine),
        "largest_max_tokens_per_micro_batch": place.largest,
        "gathered_bytes_per_micro_batch": gathered.bytes,
        "gathers_per_micro_batch": gathered.calls,
        "gathered_per_micro_batch": {"intra": gathered.intra, "inter": gathered.inter},
        "uploaded_bytes_per_micro_batch": gathered.uploaded,
        "parts": {part: [round(device), round(host)] for part, (device, host) in need.parts.items()},
    }
