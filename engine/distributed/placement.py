"""Where the frozen backbone lives, chosen from predicted memory: whole on each device, or sharded, its shards on
devices or hosts.

Everything is predicted from the configuration (``backbones.tracing.sizes``) before a weight is read, part by part, so
that ``plan`` prints on a login node what a run will choose. Speed usually falls in the order of SHARDINGS: replicated
gathers nothing; secondary shards gather within a node; offload goes over PCIe besides. Recomputing a layer costs a
third of its time more, less than a sharding further down.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from backbones.tracing import ModelFootprint
from engine.config import RunConfig, tried_rates
from engine.core import resource_folder, size_text
from engine.distributed.deepspeed_file import read_deepspeed
from engine.distributed.machine import GB, Machine
from prompt_modules import CHUNK_BYTES
from strict_yaml import counted

SHARDINGS = ("replicated", "zero3_hpz", "zero3", "zero3_offload")
FILES = {"replicated": "", "zero3_hpz": "zero3_hpz.json", "zero3": "zero3.json", "zero3_offload": "zero3_offload.json"}
DS_CONFIGS = resource_folder("ds_configs")
USABLE = 0.92  # of the memory that is free; the rest is fragments, libraries' workspaces and what a prediction misses
REUSE = 10**9  # elements: DeepSpeed's stage3_max_reuse_distance, up to which it keeps whole what is used again
# on CPUs, measured whole and under ZeRO-3: glibc keeps freed blocks up to 32 MiB (mallopt(3), M_MMAP_THRESHOLD), and
# before 2.38 its posix_memalign, by which torch allocates, passes over a freed block that is just large enough; so
# recomputed layers' blocks pile up as kept ones do
HEAP, HEAP_SHARDED, HEAP_BLOCK = 0.7, 1.1, 32 << 20
AHEAD = 3  # layers: the one at work, the one that is fetched, and one that the prefetch has passed over


@dataclass(frozen=True)
class MicroBatchShape:
    """tokens: of a micro-batch, prompts counted. answers: of them through the head at once. bank: bytes of prompts,
    gradients and optimizer.
    saved_inputs: bytes that a layer keeps of each token for what is trained in it. fused: operators of a layer are
        joined, where that is a GPU's.
    """

    tokens: int
    answers: int
    bank: int
    saved_inputs: int = 0
    fused: bool = False


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes a rank, by part: (on its device, on its host). ``recompute``: layers whose activations are
    made again; ``offloaded``: and the inputs of all of them wait on the host.
    """

    sharding: str
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
        text = f"{counted(self.recompute, 'layer')} recomputed"
        if self.offloaded:
            text += ", their inputs on the host"
        return text

    def line(self) -> str:
        shown = []
        for name, (on_device, on_host) in self.parts.items():
            if on_device + on_host >= 5e6:
                shown.append(f"{name} {(on_device + on_host) / GB:.2f}")
        again = f", {self.again()}" if self.recompute else ""
        where = f"{size_text(self.device)} on a rank's device"
        if self.host:
            where += f" and {size_text(self.host)} on its host"
        parts = f" (GB: {'; '.join(shown)})" if shown else ""
        return f"sharding {self.sharding}{again}: predicted {where}{parts}"


def micro_batch_shape(config: RunConfig, sizes: ModelFootprint) -> MicroBatchShape:
    """The largest micro-batch of a run: a sample that is longer than the token budget still goes through."""
    length = config.prompt.num_virtual_tokens
    tokens = max(config.max_tokens_per_micro_batch, length + config.data.max_length)
    # fp32 numbers, their gradient, two moments, the best
    bank = 20 * bank_numbers(config, sizes.hidden, sizes.linear_sides)
    trained_inside = "lora" in config.adapt.methods and bool(config.adapt.targets)
    saved_inputs = sizes.linear_inputs if trained_inside else 0
    return MicroBatchShape(tokens, tokens, bank, saved_inputs, fused=config.fused == "auto")


def activation_bytes_per_token(sizes: ModelFootprint, device: str, fused: bool) -> int:
    """Bytes that a layer keeps of each token for the backward pass; on CPUs nothing is fused."""
    if fused and device == "cuda":
        return sizes.saved_fused
    return sizes.saved_per_token


def bank_numbers(config: RunConfig, hidden: int, linear_sides: int) -> int:
    """About how many numbers the largest bank of a run has: that of a distillation, of an adaptation or of its
    sweep.
    """
    a, t = config.adapt, config.lr_sweep
    prompt, lora = config.prompt.num_virtual_tokens * hidden, a.lora_rank * linear_sides
    adapted = swept = 0
    for method in a.methods:
        if method in ("instruction", "in_context"):
            continue
        row = lora if method == "lora" else prompt
        rows = len(a.targets) * len(a.shots) * len(a.seeds)
        if method == "metaprompt":
            rows *= 1 + len(a.transfer)
        adapted += rows * row
        swept += len(a.targets) * len(t.shots or a.shots) * len(tried_rates(config, method)) * row
    taught = len(config.distill.tasks) * max(1, len(t.relative_lr_teach)) * prompt
    return max(taught, adapted, swept) + prompt


def estimate_memory(
    sizes: ModelFootprint, sharding: str, recompute: int, work: MicroBatchShape, m: Machine, offloaded: bool = False
) -> MemoryEstimate:
    """Memory of a rank; formulas in docs/explanation/deepspeed.md."""
    parts: dict[str, tuple[float, float]] = {"weights": _weights(sizes, sharding, m)}
    if sharding != "replicated" and not (m.world == 1 and m.device == "cpu"):  # there a parameter is its shard
        layers = min(sum(sizes.layers), max(sizes.layers) * (REUSE / sizes.layer_elements + AHEAD))
        parts["gathered"] = (layers + (sizes.head or sizes.embedding), 0)
    saved = activation_bytes_per_token(sizes, m.device, work.fused) + work.saved_inputs
    n, per_layer = len(sizes.layers), saved * work.tokens
    inputs = sizes.hidden * sizes.itemsize * work.tokens * recompute
    activations = per_layer * (n - recompute) + sizes.working_per_token * work.tokens
    if recompute:
        activations += per_layer
    if not offloaded:
        activations += inputs
    parts["activations"] = (activations, 0)
    if offloaded:
        parts["layers' inputs"] = (0, inputs)
    on_cpu, on_gpu = sizes.widened
    parts["widened experts"] = (on_cpu if m.device == "cpu" else on_gpu, 0)
    parts["loss"] = (min(CHUNK_BYTES[m.device], 24 * sizes.vocabulary * work.answers), 0)
    if m.device == "cpu":
        share = HEAP if sharding == "replicated" else HEAP_SHARDED
        freed = _freed_blocks(sizes, work)
        if 4 * sizes.vocabulary * work.answers < HEAP_BLOCK:
            freed += parts["loss"][0]
        parts["freed, kept by the allocator"] = (share * freed, 0)
    parts["prompts"] = (work.bank, 0)
    return MemoryEstimate(sharding, recompute, offloaded, parts)


def _weights(sizes: ModelFootprint, sharding: str, m: Machine) -> tuple[float, float]:
    """Bytes of the frozen weights that a rank holds: (on its device, on its host)."""
    if sharding == "replicated":
        return sizes.weights, 0
    shard = sum(sizes.sharded_tensors) / m.world
    if sharding == "zero3_hpz":
        return shard + shard * m.world / m.ranks_per_node, 0
    if sharding != "zero3_offload":
        return shard, 0
    if m.device != "cuda":
        return 0, shard
    # torch rounds a pinned block up to a power of two
    return 0, sum(_power_of_two(-(-tensor // m.world)) for tensor in sizes.sharded_tensors)


def _freed_blocks(sizes: ModelFootprint, work: MicroBatchShape) -> float:
    """Bytes of a layer's blocks that are small enough for glibc to keep them after they are freed."""
    total: float = 0
    small = False
    for width, saved, working in sizes.blocks:
        if width * work.tokens < HEAP_BLOCK:
            total += (saved * len(sizes.layers) + working) * work.tokens
            small = True
    if small:
        total += work.saved_inputs * work.tokens * len(sizes.layers)
    return total


def _power_of_two(n: int) -> int:
    return 1 << max(0, n - 1).bit_length()


def possible_shardings(m: Machine, asked: str) -> list[str]:
    """The shardings to consider, in the order of SHARDINGS."""
    if asked != "auto":
        return [asked]
    out = ["replicated"]
    if m.nodes > 1 and m.ranks_per_node > 1:
        out.append("zero3_hpz")
    if m.world > 1:
        out.append("zero3")
    if m.device != "cpu" or m.world == 1:  # on CPUs the same memory as sharded
        out.append("zero3_offload")
    return out


def candidates(
    sizes: ModelFootprint, asked: str, recompute: str, work: MicroBatchShape, m: Machine
) -> Iterator[MemoryEstimate]:
    """Of each sharding its least recomputation that fits; all of it where none does."""
    n = len(sizes.layers)
    counts = {"auto": range(n + 1), "none": range(1), "all": range(n, n + 1), "all_offloaded": range(0)}[recompute]
    last = recompute == "all_offloaded" or (recompute == "auto" and m.device == "cuda")  # a CPU's memory is the host's
    for sharding in possible_shardings(m, asked):
        found = [estimate_memory(sizes, sharding, recompute=k, work=work, m=m) for k in counts]
        if last:
            found.append(estimate_memory(sizes, sharding, recompute=n, work=work, m=m, offloaded=True))
        yield next((estimate for estimate in found if estimate.fits(m)), found[-1])


def choose_sharding(
    sizes: ModelFootprint, asked: str, recompute: str, work: MicroBatchShape, m: Machine
) -> MemoryEstimate:
    """The first that fits, in the order of SHARDINGS; where nothing does, the one that needs least on a device (its
    ``fits`` is False).
    """
    found = list(candidates(sizes, asked, recompute, work, m))
    for estimate in found:
        if estimate.fits(m):
            return estimate
    if m.device == "cpu":
        return min(found, key=lambda estimate: estimate.device + estimate.host)
    return min(found, key=lambda estimate: estimate.device)


def deepspeed_file_of(sharding: str) -> str:
    """The DeepSpeed file of a sharding; none for ``replicated``."""
    if not FILES[sharding]:
        return ""
    return str(DS_CONFIGS / FILES[sharding])


def sharding_of_file(zero: dict[str, Any]) -> str:
    """The sharding that a DeepSpeed file's ``zero_optimization`` amounts to."""
    offload = zero.get("offload_param")
    if isinstance(offload, dict) and offload.get("device", "none") != "none":
        return "zero3_offload"
    if zero.get("zero_hpz_partition_size", 1) != 1:
        return "zero3_hpz"
    return "zero3"


def requested_sharding(config: RunConfig) -> str:
    """The sharding that a configuration names, in a word or by its DeepSpeed file."""
    if not config.deepspeed:
        return config.sharding
    _, zero = read_deepspeed(config.deepspeed)
    return sharding_of_file(zero)
