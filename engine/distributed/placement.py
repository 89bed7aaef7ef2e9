"""Where the frozen backbone lives, chosen from predicted memory: whole on each device, or sharded, its shards on
devices or hosts.

Everything is predicted from the configuration (``backbones.tracing.sizes``) before a weight is read, part by part, so that
``plan`` prints on a login node what a run will choose. Speed falls in the order of PLACEMENTS: resident gathers
nothing; secondary shards gather within a node; offload goes over PCIe besides. Recomputing a layer costs a third of its
time more, less than a placement further down.
"""

import socket
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from backbones.tracing import ModelFootprint
from engine.config import RunConfig, tried_rates
from engine.core import resource_folder
from engine.distributed.process_group import gather_objects
from engine.distributed.zero3 import read_deepspeed
from prompt_modules import CHUNK_BYTES

SHARDINGS = ("resident", "sharded_hpz", "sharded", "offload")
FILES = {"resident": "", "sharded_hpz": "zero3_hpz.json", "sharded": "zero3.json", "offload": "zero3_offload.json"}
DS_CONFIGS = resource_folder("ds_configs")
USABLE = 0.92  # of the memory that is free; the rest is fragments, libraries' workspaces and what a prediction misses
GB = 1e9
REUSE = 10**9  # elements: DeepSpeed's stage3_max_reuse_distance, up to which it keeps whole what is used again
# on CPUs, measured whole and under ZeRO-3: glibc keeps freed blocks up to 32 MiB (mallopt(3), M_MMAP_THRESHOLD), and
# before 2.38 its posix_memalign, by which torch allocates, passes over a freed block that is just large enough; so
# recomputed layers' blocks pile up as kept ones do
HEAP, HEAP_SHARDED, HEAP_BLOCK = 0.7, 1.1, 32 << 20
AHEAD = 3  # layers: the one at work, the one that is fetched, and one that the prefetch has passed over


@dataclass(frozen=True)
class Machine:
    """device: "cuda" or "cpu". device_bytes: free on each rank's device. host_bytes: free on each node, for all of
    its ranks; on CPUs the only memory.
    """

    nodes: int
    ranks_per_node: int
    device: str
    device_bytes: int
    host_bytes: int

    @property
    def world(self) -> int:
        return self.nodes * self.ranks_per_node


@dataclass(frozen=True)
class MicroBatchShape:
    """tokens: of a micro-batch, prompts counted. answers: of them through the head at once. bank: bytes of prompts,
    gradients and optimizer.
    kept_besides: bytes that a layer keeps of each token for what is trained in it. fused: operators of a layer are
        joined, where that is a GPU's.
    """

    tokens: int
    answers: int
    bank: int
    kept_besides: int = 0
    fused: bool = False


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes a rank, by part: (on its device, on its host). ``recompute``: layers whose activations are made again;
    ``offloaded``: and the inputs of all of them wait on the host.
    """

    placement: str
    recompute: int
    offloaded: bool
    parts: dict[str, tuple[float, float]]

    @property
    def device(self) -> float:
        return sum(d for d, _ in self.parts.values())

    @property
    def host(self) -> float:
        return sum(h for _, h in self.parts.values())

    def fits(self, m: Machine) -> bool:
        if m.device == "cpu":
            return (self.device + self.host) * m.ranks_per_node <= USABLE * m.host_bytes
        return self.device <= USABLE * m.device_bytes and self.host * m.ranks_per_node <= USABLE * m.host_bytes

    def again(self) -> str:
        return f"{self.recompute} layers recomputed{', their inputs on the host' if self.offloaded else ''}"

    def line(self) -> str:
        parts = ", ".join(f"{name} {(d + h) / GB:.2f}" for name, (d, h) in self.parts.items() if (d + h) >= 5e6)
        again = f", {self.again()}" if self.recompute else ""
        return (
            f"placement {self.placement}{again}: predicted {self.device / GB:.2f} GB on a rank's device, "
            f"{self.host / GB:.2f} GB on its host ({parts})"
        )


def micro_batch_shape(config: RunConfig, sizes: ModelFootprint) -> MicroBatchShape:
    """The largest micro-batch of a run: a sample that is longer than the token budget still goes through."""
    length = config.prompt.length
    tokens = max(config.token_budget, length + config.data.max_length)
    bank = 20 * bank_numbers(
        config, sizes.hidden, sizes.linear_sides
    )  # fp32 numbers, their gradient, two moments, the best
    trained_inside = "lora" in config.adapt.methods and bool(config.adapt.targets)
    return MicroBatchShape(
        tokens, tokens, bank, sizes.linear_inputs if trained_inside else 0, fused=config.fused == "auto"
    )


def activation_bytes_per_token(sizes: ModelFootprint, device: str, fused: bool) -> int:
    """Bytes that a layer keeps of each token for the backward pass; on CPUs nothing is fused."""
    return sizes.kept_fused if fused and device == "cuda" else sizes.kept_per_token


def bank_numbers(config: RunConfig, hidden: int, linear_sides: int) -> int:
    """About how many numbers the largest bank of a run has: that of a distillation, of an adaptation or of its
    sweep.
    """
    a, t = config.adapt, config.tune
    prompt, lora = config.prompt.length * hidden, a.lora_rank * linear_sides

    def rows(of_method: Callable[[str], int]) -> int:
        trained = [m for m in a.methods if m not in ("instruction", "in_context")]
        return sum(of_method(m) * (lora if m == "lora" else prompt) for m in trained)

    each = len(a.targets) * len(a.shots) * len(a.seeds)
    adapted = rows(lambda m: each * (1 + len(a.transfer) * (m == "metaprompt")))
    swept = rows(lambda m: len(a.targets) * len(t.shots or a.shots) * len(tried_rates(config, m)))
    taught = len(config.distill.tasks) * max(1, len(t.relative_lr_teach)) * prompt
    return max(taught, adapted, swept) + prompt


def estimate_memory(
    sizes: ModelFootprint, placement: str, recompute: int, work: MicroBatchShape, m: Machine, offloaded: bool = False
) -> MemoryEstimate:
    """Memory of a rank; formulas in docs/deepspeed.md."""
    parts: dict[str, tuple[float, float]] = {}
    shard = sum(sizes.sharded_tensors) / m.world
    if placement == "resident":
        parts["weights"] = (sizes.weights, 0)
    elif placement == "offload":
        # torch rounds a pinned block up to a power of two
        pinned = sum(_power_of_two(-(-t // m.world)) for t in sizes.sharded_tensors) if m.device == "cuda" else shard
        parts["weights"] = (0, pinned)
    else:
        parts["weights"] = (shard + (shard * m.world / m.ranks_per_node if placement == "sharded_hpz" else 0), 0)
    if placement != "resident" and not (m.world == 1 and m.device == "cpu"):  # there a parameter is its shard
        layers = min(sum(sizes.layers), max(sizes.layers) * (REUSE / sizes.layer_elements + AHEAD))
        parts["gathered"] = (layers + (sizes.head or sizes.embedding), 0)
    kept = activation_bytes_per_token(sizes, m.device, work.fused) + work.kept_besides
    n, per_layer = len(sizes.layers), kept * work.tokens
    inputs = sizes.hidden * sizes.itemsize * work.tokens
    again = (0 if offloaded else inputs * recompute) + (per_layer if recompute else 0)
    parts["activations"] = (per_layer * (n - recompute) + again + sizes.working_per_token * work.tokens, 0)
    if offloaded:
        parts["layers' inputs"] = (0, inputs * recompute)
    parts["widened experts"] = (sizes.widened[0 if m.device == "cpu" else 1], 0)
    parts["loss"] = (min(CHUNK_BYTES[m.device], 24 * sizes.vocabulary * work.answers), 0)
    if m.device == "cpu":
        small = [(kept, working) for width, kept, working in sizes.blocks if width * work.tokens < HEAP_BLOCK]
        passed: float = (
            sum((kept * n + working) * work.tokens for kept, working in small)
            + bool(small) * work.kept_besides * work.tokens * n
        )
        passed += parts["loss"][0] if 4 * sizes.vocabulary * work.answers < HEAP_BLOCK else 0
        parts["freed, kept by the allocator"] = ((HEAP if placement == "resident" else HEAP_SHARDED) * passed, 0)
    parts["prompts"] = (work.bank, 0)
    return MemoryEstimate(placement, recompute, offloaded, parts)


def _power_of_two(n: int) -> int:
    return 1 << max(0, n - 1).bit_length()


def possible_shardings(m: Machine, asked: str) -> list[str]:
    """The placements to consider, fastest first."""
    if asked != "auto":
        return [asked]
    several = m.nodes > 1 and m.ranks_per_node > 1
    out = ["resident", *(["sharded_hpz"] if several else []), *(["sharded"] if m.world > 1 else []), "offload"]
    return [
        p for p in out if not (m.device == "cpu" and p == "offload" and m.world > 1)
    ]  # on CPUs the same memory as sharded


def candidates(
    sizes: ModelFootprint, asked: str, recompute: str, work: MicroBatchShape, m: Machine
) -> Iterator[MemoryEstimate]:
    """Of each placement its least recomputation that fits; all of it where none does."""
    n = len(sizes.layers)
    counts = {"auto": range(n + 1), "none": range(1), "all": range(n, n + 1), "all_offloaded": range(0)}[recompute]
    last = recompute == "all_offloaded" or (recompute == "auto" and m.device == "cuda")  # a CPU's memory is the host's
    for placement in possible_shardings(m, asked):
        found = [estimate_memory(sizes, placement, k, work, m) for k in counts] + [
            estimate_memory(sizes, placement, n, work, m, True)
        ] * last
        yield next((x for x in found if x.fits(m)), found[-1])


def choose_sharding(
    sizes: ModelFootprint, asked: str, recompute: str, work: MicroBatchShape, m: Machine
) -> MemoryEstimate:
    """The fastest that fits; where nothing does, the one that needs least on a device (its ``fits`` is False)."""
    found = list(candidates(sizes, asked, recompute, work, m))
    return next(
        (x for x in found if x.fits(m)), min(found, key=lambda x: x.device + (x.host if m.device == "cpu" else 0))
    )


def deepspeed_file_of(placement: str) -> str:
    """The DeepSpeed file of a placement; none for ``resident``."""
    return str(DS_CONFIGS / FILES[placement]) if FILES[placement] else ""


def sharding_of_file(zero: dict[str, Any]) -> str:
    """The placement that a DeepSpeed file's ``zero_optimization`` amounts to."""
    offload = zero.get("offload_param")
    if isinstance(offload, dict) and offload.get("device", "none") != "none":
        return "offload"
    return "sharded_hpz" if zero.get("zero_hpz_partition_size", 1) != 1 else "sharded"


def requested_sharding(config: RunConfig) -> str:
    """The placement that a configuration names, in a word or by its DeepSpeed file."""
    return sharding_of_file(read_deepspeed(config.deepspeed)[1]) if config.deepspeed else config.placement


def free_memory_text(m: Machine) -> str:
    """A machine's free memory, in words."""
    host = f"{m.host_bytes / GB:.1f} GB of a host ({m.ranks_per_node} ranks)"
    return host if m.device == "cpu" else f"{m.device_bytes / GB:.1f} GB of a device and {host}"


def machine_here(device: torch.device) -> Machine:
    """What this job runs on, alike on every rank. A collective."""
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 0
    every = gather_objects((socket.gethostname(), free, free_host_bytes()))
    ranks = Counter(host for host, _, _ in every)
    return Machine(
        len(ranks), max(ranks.values()), device.type, min(f for _, f, _ in every), min(h for _, _, h in every)
    )


def free_host_bytes(proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> int:
    """Memory that this process and its like may still take: of the host, or of the job's control group where that
    is less.
    """
    available = next(
        int(line.split()[1]) * 1024
        for line in (proc / "meminfo").read_text().splitlines()
        if line.startswith("MemAvailable")
    )
    try:
        own = next(
            line.split("::", 1)[1] for line in (proc / "self/cgroup").read_text().splitlines() if line.startswith("0::")
        )
    except (OSError, StopIteration):
        return available
    folder = cgroups / own.strip("/")
    while folder != cgroups.parent:  # a limit may stand further up
        try:
            limit = (folder / "memory.max").read_text().strip()
            if limit != "max":
                inactive = next(
                    (
                        int(x.split()[1])
                        for x in (folder / "memory.stat").read_text().splitlines()
                        if x.startswith("inactive_file")
                    ),
                    0,
                )
                available = min(available, int(limit) - int((folder / "memory.current").read_text()) + inactive)
        except OSError:
            pass
        folder = folder.parent
    return max(available, 0)
