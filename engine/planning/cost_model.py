"""How long a micro-batch takes: operations, bytes and calls over what a device and its links reach. Formulas and
sources: docs/how_to/planning.md.

A term is what a step would take if all else were free. A device's own kernels, products (compute) and what only reads
and writes (memory), run one after another. The others hide behind them as far as the device kind's ``overlap`` says: on
a GPU DeepSpeed fetches a layer ahead of the one that computes, on CPU ranks nothing runs beside anything.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from backbones import Gathered
from backbones.tracing import ModelFootprint
from engine.distributed import DeviceKind, Machine, MemoryEstimate, activation_bytes_per_token
from engine.planning.step_workload import MicroBatch

TERMS = ("compute", "memory", "gather", "transfer", "host")
FLASH_BACKWARD = (
    2.5  # of the forward pass: five products where that has two (Dao et al. 2022, arXiv:2205.14135, algorithm 4)
)
# bytes that norms, rotations, gates, sums, copies and the packed rows' lookups read and write, times what the layers
# keep for the backward pass: a forward and a backward pass as torch's dispatcher sees them, each operator's inputs and
# outputs (tests/engine/planning/test_traffic.py)
TOUCHED = (5.7, 13.0)
# the same where a GPU joins them, times what is then saved: 2.3 and 3.9 of a Llama 8B, 3.2 and 4.7 of a gpt-oss 20B
# (benchmarks.roofline, attention apart)
TOUCHED_FUSED = (2.7, 4.3)
OPTIMIZER = 28  # bytes read or written a trained number: gradient, two moments and the number itself, fp32


@dataclass(frozen=True)
class Attention:
    """windows: of each layer the keys that a query sees at most, 0 for all."""

    windows: tuple[int, ...]


def attention_of(config: Any) -> Attention:
    """Of transformers' configuration."""
    window = getattr(config, "sliding_window", None) or 0
    if getattr(config, "use_sliding_window", True) is False:
        window = 0
    kinds = getattr(config, "layer_types", None)
    if not kinds:  # mistral's: every layer
        return Attention((window,) * config.num_hidden_layers)
    return Attention(tuple(window * (kind == "sliding_attention") for kind in kinds))


@dataclass(frozen=True)
class Seconds:
    """Of a micro-batch, a step or a stage. terms: each as if it were alone. first: what the first layer's gather and
    upload take, which nothing hides.
    total: with what overlaps counted once.
    """

    terms: dict[str, float]
    first: float
    total: float

    @property
    def binding(self) -> str:
        return max(self.terms, key=lambda t: self.terms[t])

    def plus(self, other: "Seconds") -> "Seconds":
        terms = {term: self.terms[term] + other.terms[term] for term in TERMS}
        return Seconds(terms, self.first + other.first, self.total + other.total)

    def times(self, factor: float) -> "Seconds":
        return Seconds({t: v * factor for t, v in self.terms.items()}, self.first * factor, self.total * factor)


NOTHING = Seconds(dict.fromkeys(TERMS, 0.0), 0.0, 0.0)


@dataclass(frozen=True)
class Model:
    """What does not change from one micro-batch to the next.

    gathered: kind of micro-batch -> what one brings, when one has followed another. entered: kind -> modules entered.
        dtype: of the weights.
    fused: operators of a layer are joined, where that is a GPU's.
    """

    sizes: ModelFootprint
    attention: Attention
    need: MemoryEstimate
    machine: Machine
    device: DeviceKind
    gathered: dict[str, Gathered]
    entered: dict[str, int]
    dtype: str
    fused: bool = False

    def rate(self, what: str) -> float:
        """Bytes or operations a second that are reached."""
        device = self.device
        peaks = {
            "compute": device.flops[self.dtype],
            "memory": device.memory,
            "pcie": device.pcie,
            "intra": device.intra,
            "network": device.network,
        }
        return peaks[what] * device.reach[what]

    def operations(self, kind: str, b: MicroBatch) -> float:
        """Multiply-adds x 2 of a micro-batch on one rank: linears, attention, head."""
        s, n = self.sizes, len(self.sizes.layers)
        forward, backward = passes(kind, self.need.recompute / n)
        linears = 2 * s.active * b.tokens
        pairs = sum(min(b.pairs, b.tokens * (window or math.inf)) for window in self.attention.windows)
        attention = 4 * s.queries * pairs
        head = 2 * s.vocabulary * s.hidden * b.answers * {"forward": 1, "train": 2, "train_with_teacher": 4}[kind]
        return linears * (forward + backward) + attention * (forward + FLASH_BACKWARD * backward) + head

    def products(self, kind: str, b: MicroBatch) -> float:
        """Seconds of the matrix products: their operations, or the weights that they read where these take longer."""
        s = self.sizes
        forward, backward = passes(kind, self.need.recompute / len(s.layers))
        weights = sum(s.layers) * (forward + backward) + (s.head or s.embedding)
        return max(self.operations(kind, b) / self.rate("compute"), weights / self.rate("memory"))

    def moved(self, kind: str, b: MicroBatch) -> float:
        """Bytes that all else reads and writes in the device's own memory."""
        s, n = self.sizes, len(self.sizes.layers)
        forward, backward = passes(kind, self.need.recompute / n)
        gathered = self.gathered[kind]
        # all-gathered into one memory, then copied from there, parameter by parameter (AllGatherCoalescedHandle.wait)
        copied = 0
        if self.need.sharding != "replicated":
            copied = 3 * (gathered.bytes + gathered.uploaded)
        experts, chosen = s.experts
        cuda = self.machine.device == "cuda"
        widened = s.widened[1] if cuda else s.widened[0] * min(experts, max(chosen, b.tokens * chosen))
        wide = widened * n * 2 * (forward + backward)
        per_saved = TOUCHED_FUSED if self.fused and cuda else TOUCHED
        saved = activation_bytes_per_token(s, self.machine.device, self.fused) * b.tokens * n
        touched = saved * (per_saved[0] * forward + per_saved[1] * backward)
        loss = 2 * 24 * s.vocabulary * b.answers
        return copied + wide + touched + loss

    def micro_batch(self, kind: str, b: MicroBatch) -> Seconds:
        g, d, layers = self.gathered[kind], self.device, len(self.sizes.layers)
        forward, backward = passes(kind, self.need.recompute / layers)
        uploaded = float(g.uploaded)
        if self.need.offloaded and backward:  # layers' inputs to the host and back
            uploaded += 2 * self.sizes.hidden * self.sizes.itemsize * b.tokens * self.need.recompute
        gather = (
            gather_seconds(g, m=self.machine, intra=self.rate("intra"), network=self.rate("network"))
            + g.calls * d.latency
        )
        terms = {
            "compute": self.products(kind, b),
            "memory": self.moved(kind, b) / self.rate("memory"),
            "gather": gather,
            "transfer": uploaded / self.rate("pcie"),
            "host": self.entered[kind] * d.entering,
        }
        first = (gather + g.uploaded / self.rate("pcie")) / (layers * (forward + backward))
        return combined(terms, first, d.overlap)

    def update(self, numbers: int) -> Seconds:
        """A step's end: the gradient of the trained numbers is summed over ranks, and they are stepped."""
        m, world = self.machine, self.machine.world
        seconds = OPTIMIZER * numbers / self.rate("memory")
        share = 2 * 4 * numbers * (world - 1) / world  # a ring's all-reduce
        links = [self.rate("intra")] * (m.ranks_per_node > 1) + [self.rate("network")] * (m.nodes > 1)
        gather = share / min(links) if links else 0.0
        return Seconds({**dict.fromkeys(TERMS, 0.0), "memory": seconds, "gather": gather}, 0.0, seconds + gather)


def passes(kind: str, recomputed: float) -> tuple[float, float]:
    """Forward and backward passes of a micro-batch through the layers; a recomputed layer goes forward once more."""
    by_kind = {
        "forward": (1.0, 0.0),
        "train": (1.0 + recomputed, 1.0),
        "train_with_teacher": (2.0 + recomputed, 1.0),
    }
    return by_kind[kind]


def gather_seconds(g: Gathered, m: Machine, intra: float, network: float) -> float:
    """A ring's: every rank receives what is not its own from its neighbour in the node; into a node goes what lies
    on others, once for all of its ranks.
    """
    inside = (g.intra + g.inter) / intra if m.ranks_per_node > 1 else 0.0
    return max(inside, g.inter / network)


def combined(terms: dict[str, float], first: float, overlap: dict[str, float]) -> Seconds:
    """The device's kernels, what of the others does not hide behind them, and the first layer's gather; or one of
    the others, if that takes longer.
    """
    device = terms["compute"] + terms["memory"]
    others, exposed = [], 0.0
    for term in TERMS[2:]:
        others.append(terms[term])
        exposed += (1 - overlap.get(term, 0.0)) * terms[term]
    hidden = first * overlap.get("gather", 0.0)
    return Seconds(terms, hidden, max(device + exposed, *others) + hidden)


def step_seconds(model: Model, kind: str, steps: Sequence[Sequence[MicroBatch]], numbers: int) -> Seconds:
    """Of a step, on average."""
    total = NOTHING
    for step in steps:
        for b in step:
            total = total.plus(model.micro_batch(kind, b))
    return total.times(1 / len(steps)).plus(model.update(numbers))
