"""What would make a configuration fit that does not: single changes, or several together where none is enough. The
memory of each is computed.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from engine import distributed
from engine.config import RunConfig
from engine.distributed import GB, USABLE, Machine, MemoryEstimate
from engine.planning.planner import Planner, with_values
from engine.planning.recommendation import fitting_tokens, shardings_of

MOST_NODES = 64  # that are tried
GPUS_OF_A_NODE = 8
LARGEST_GPU, LARGEST_HOST = 300, 4096  # GB; more is not worth naming


@dataclass(frozen=True)
class Remedy:
    """A change that fits. flags: to add to the command. machine, need: what they lead to. memory: only another machine
    brings it. words: named in place of the flags: what hardware would have to have, which no setting changes.
    """

    flags: tuple[str, ...]
    machine: Machine
    need: MemoryEstimate
    note: str = ""
    memory: bool = False
    words: str = ""

    def text(self) -> str:
        """``--flag=value (what it needs)``."""
        per = "a GPU" if self.machine.device == "cuda" else "a rank"
        details = [self.need.sharding, f"{per_rank(self.need, self.machine) / GB:.1f} GB {per}"]
        if self.note:
            details.append(self.note)
        return f"{self.words or ' '.join(self.flags)} ({', '.join(details)})"

    def as_json(self) -> dict[str, Any]:
        return {
            "flags": [] if self.words else list(self.flags),
            "words": self.words,
            "sharding": self.need.sharding,
            "device_bytes": round(self.need.device),
            "host_bytes": round(self.need.host),
            "note": self.note,
        }


def per_rank(need: MemoryEstimate, machine: Machine) -> float:
    """Bytes that count against the memory of a rank: on CPUs the host's are the device's."""
    return need.device if machine.device == "cuda" else need.device + need.host


def remedies(planner: Planner, config: RunConfig, machine: Machine) -> list[Remedy]:
    """Changes, each of which fits: settings of the configuration alone or together, then more ranks, then memory."""
    found = _fitting(
        [
            *_fewer_tokens(planner, config, machine),
            *_other_sharding(planner, config, machine),
            *_recomputation(planner, config, machine),
            *_shorter_samples(planner, config, machine),
        ]
    )
    found = found or [*_several_changes(planner, config, machine, [machine])]
    found += _fitting(_more_ranks(planner, config, machine))
    found = found or [*_several_changes(planner, config, machine, _larger_machines(machine))]
    memory = _fitting([*_more_host_memory(planner, config, machine), *_larger_gpu(planner, config, machine)])
    return found + memory or [*_more_memory(planner, config, machine)]


def _fitting(found: Iterable[Remedy]) -> list[Remedy]:
    return [remedy for remedy in found if remedy.need.fits(remedy.machine)]


def _fewer_tokens(planner: Planner, config: RunConfig, machine: Machine) -> Iterator[Remedy]:
    if tokens := fitting_tokens(planner, config, machine):
        changed = with_values(config, max_tokens_per_micro_batch=tokens)
        yield Remedy((f"--max_tokens_per_micro_batch={tokens}",), machine, planner.need(changed, machine))


def _other_sharding(planner: Planner, config: RunConfig, machine: Machine) -> Iterator[Remedy]:
    """The first in a run's own order."""
    for sharding in shardings_of(config, machine):
        need = planner.need(config, machine, sharding)
        if need.fits(machine):
            yield Remedy((f"--sharding={sharding}",), machine, need)
            return


def _recomputation(planner: Planner, config: RunConfig, machine: Machine) -> Iterator[Remedy]:
    if config.activation_checkpointing != "auto":
        changed = with_values(config, activation_checkpointing="auto")
        yield Remedy(("--activation_checkpointing=auto",), machine, planner.need(changed, machine))


def _shorter_samples(planner: Planner, config: RunConfig, machine: Machine) -> Iterator[Remedy]:
    """Where the longest sample alone is too much."""
    length = config.prompt.num_virtual_tokens
    tokens = planner.largest_budget(config, machine)
    if not length < tokens < length + config.data.max_length:
        return
    changed = with_values(config, max_tokens_per_micro_batch=tokens)
    changed.data.max_length = tokens - length
    flags = [f"--data.max_length={tokens - length}"]
    if config.max_tokens_per_micro_batch > tokens:
        flags.append(f"--max_tokens_per_micro_batch={tokens}")
    yield Remedy(tuple(flags), machine, planner.need(changed, machine), "longer samples are left out of training")


def _more_ranks(planner: Planner, config: RunConfig, machine: Machine) -> Iterator[Remedy]:
    """The fewest ranks, by doubling, on which a sharding fits: those of a node first."""
    asked = distributed.requested_sharding(config)
    for other in _larger_machines(machine):
        need = planner.need(config, other, "auto" if asked == "replicated" else asked)
        if need.fits(other):
            flags = _machine_flags(machine, other)
            if asked == "replicated":
                flags.append(f"--sharding={need.sharding}")
            yield Remedy(tuple(flags), other, need)
            return


def _several_changes(
    planner: Planner, config: RunConfig, machine: Machine, others: Iterable[Machine]
) -> Iterator[Remedy]:
    """Of the first of ``others`` on which it fits: any sharding, recomputation and a smaller micro-batch together."""
    freed = with_values(config, activation_checkpointing="auto")
    asked = distributed.requested_sharding(config) if config.deepspeed else "auto"
    for other in others:
        if tokens := fitting_tokens(planner, freed, other, asked):
            need = planner.need(with_values(freed, max_tokens_per_micro_batch=tokens), other, asked)
            flags = _machine_flags(machine, other)
            if tokens != config.max_tokens_per_micro_batch:
                flags.append(f"--max_tokens_per_micro_batch={tokens}")
            if config.sharding != "auto":
                flags.append(f"--sharding={need.sharding}")
            if config.activation_checkpointing != "auto":
                flags.append("--activation_checkpointing=auto")
            yield Remedy(tuple(flags), other, need)
            return


def _more_memory(planner: Planner, config: RunConfig, machine: Machine) -> Iterator[Remedy]:
    """Of GPUs and of their host together, for the sharding that needs least of a GPU."""
    need = planner.need(config, machine)
    gpu, host = _gigabytes(need.device), _gigabytes(need.host * machine.ranks_per_node)
    if machine.device == "cuda" and gpu <= LARGEST_GPU and host <= LARGEST_HOST:
        other = replace(machine, device_bytes=int(gpu * GB), host_bytes=max(machine.host_bytes, int(host * GB)))
        flags = (f"--gpu_gb={gpu}", f"--host_gb={other.host_bytes / GB:g}")
        words = f"GPUs with at least {gpu} GB and nodes with at least {host} GB of free memory"
        yield Remedy(flags, other, planner.need(config, other), memory=True, words=words)


def _gigabytes(held: float) -> int:
    """Free memory in whole GB that holds so many bytes."""
    return math.ceil(held / USABLE / GB)


def _larger_machines(machine: Machine) -> list[Machine]:
    """More GPUs a node, then more nodes of as many."""
    larger = []
    if machine.device == "cuda":
        larger = [replace(machine, ranks_per_node=n) for n in _doubled(machine.ranks_per_node, GPUS_OF_A_NODE)]
    last = larger[-1] if larger else machine
    return larger + [replace(last, nodes=n) for n in _doubled(machine.nodes, MOST_NODES)]


def _machine_flags(machine: Machine, other: Machine) -> list[str]:
    """What is typed of another machine."""
    flags = []
    if other.nodes != machine.nodes:
        flags.append(f"--nodes={other.nodes}")
    if other.ranks_per_node != machine.ranks_per_node:
        flags.append(f"--gpus_per_node={other.ranks_per_node}")
    return flags


def _doubled(count: int, most: int) -> Iterator[int]:
    while 2 * count <= most:
        count *= 2
        yield count


def _more_host_memory(planner: Planner, config: RunConfig, machine: Machine) -> Iterator[Remedy]:
    """Of a node: for shards or layers' inputs that wait there, on CPUs for everything."""
    if machine.device == "cuda":
        held = planner.need(config, replace(machine, host_bytes=1 << 60)).host
    else:  # of what needs least: with more, a run would recompute less
        held = per_rank(planner.need(config, machine), machine)
    gigabytes = _gigabytes(held * machine.ranks_per_node)
    if gigabytes <= LARGEST_HOST:
        other = replace(machine, host_bytes=int(gigabytes * GB))
        wanted = planner.need(config, other)
        words = f"nodes with at least {gigabytes} GB of free host memory"
        yield Remedy((f"--host_gb={gigabytes}",), other, wanted, memory=True, words=words)


def _larger_gpu(planner: Planner, config: RunConfig, machine: Machine) -> Iterator[Remedy]:
    """The memory that a GPU must have free for the sharding that needs least of it."""
    gigabytes = _gigabytes(planner.need(config, machine).device)
    if machine.device == "cuda" and machine.device_bytes / GB < gigabytes <= LARGEST_GPU:
        other = replace(machine, device_bytes=int(gigabytes * GB))
        need, flags = planner.need(config, other), (f"--gpu_gb={gigabytes}",)
        if planner.device is not None and gigabytes * GB <= planner.device.memory_bytes:
            yield Remedy(flags, other, need, "free memory of a GPU", memory=True)
        else:
            words = f"a GPU with at least {gigabytes} GB of free memory"
            yield Remedy(flags, other, need, memory=True, words=words)
