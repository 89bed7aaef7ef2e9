"""What a GPU would have to do in one packed micro-batch, counted without one: operators, bytes and operations of the
CUDA path at full size.

    python -m benchmarks.roofline --output benchmarks/results/roofline_modelled.json

The model is made on torch's meta device, where tensors have shapes and no numbers, and the real code runs: forward
pass, head and loss, backward pass. Each operator takes as long as its bytes (each input read once, each output written
once) or its matrix products take, whichever is longer, and at least as long as a launch. So the sum is a bound from
below for kernels as they are now, and says which of them to join. Attention counts by its bytes alone; an operator of
several kernels, such as a sort, counts as one. Counts are exact: tests hold them, so that a change which adds one is
seen.
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.initialization import no_init_weights

from backbones import FrozenRoot, PackedBatch, share_prefix
from backbones.attention import GatheredKeys, gathered, in_parts, shared_prefix
from backbones.kernels import experts as expert_kernels, fused as fused_kernels, mxfp4
from backbones.layers import fuse, mxfp4_experts
from backbones.loading import experts_as_released, recompute_first
from benchmarks.common.workload import SHAPES, Shape
from engine.core import library_versions, protect, source_commit
from prompt_modules import tied_head

# of an H100 SXM: what large bf16 products reach, 85 % of its memory's peak, and a kernel's least time
MATRIX, MEMORY, LAUNCH = 650e12, 2.85e12, 3e-6
LENGTH, MEAN, ANSWER = (
    100,
    100,
    0.1,
)  # of a prompt; of a sample, half to one and a half times as long; the answer's share of it
ROWS = {2048: 4, 16384: 10}  # tokens of a row -> tasks in it
META = torch.device("meta")

# operators that give out another view of memory, or memory that nobody has written to
VIEWS = {
    "view",
    "_unsafe_view",
    "expand",
    "transpose",
    "t",
    "permute",
    "slice",
    "select",
    "unsqueeze",
    "squeeze",
    "detach",
    "alias",
    "split",
    "split_with_sizes",
    "unbind",
    "as_strided",
    "reshape",
    "unflatten",
    "_reshape_alias",
    "view_as",
    "empty",
    "empty_like",
    "new_empty",
    "empty_strided",
    "new_empty_strided",
    "lift_fresh",
    "is_same_size",
    "sym_size",
}
LOOKUPS = {"index_select", "index", "embedding", "gather"}
SCATTERS = {"index_copy", "index_copy_", "index_add_", "scatter", "scatter_", "index_put_"}
FILLS = {"zeros", "zeros_like", "new_zeros", "ones", "ones_like", "full", "full_like", "fill_", "zero_", "arange"}
PRODUCTS = {"mm", "addmm", "bmm", "_grouped_mm"}


@dataclass
class Cost:
    """Of one kind of operator: calls, bytes read and written, operations of matrix products, seconds modelled."""

    launches: int = 0
    bytes: int = 0
    operations: int = 0
    seconds: float = 0.0

    def add(self, other: "Cost") -> None:
        self.launches += other.launches
        self.bytes += other.bytes
        self.operations += other.operations
        self.seconds += other.seconds


class Counter(TorchDispatchMode):
    """``costs``: (phase, operator) -> Cost."""

    def __init__(self) -> None:
        super().__init__()
        self.phase, self.costs = "", defaultdict[tuple[str, str], Cost](Cost)

    def note(self, name: str, moved: int, operations: int = 0) -> None:
        seconds = max(moved / MEMORY, operations / MATRIX, LAUNCH)
        self.costs[self.phase, name].add(Cost(1, moved, operations, seconds))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        given = _tensors((args, kwargs))
        if name not in VIEWS and any(t.device == META for t in given + _tensors(out)):
            self.note(name, _moved(name, given, _tensors(out)), _operations(name, given))
        return out


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_flatten(tree)[0] if isinstance(leaf, Tensor)]


def _size(tensor: Tensor) -> int:
    """Bytes that a kernel reads: what is expanded is read once."""
    numbers = 1
    for n, stride in zip(tensor.shape, tensor.stride(), strict=True):
        numbers *= n if stride else 1
    return numbers * tensor.element_size()


def _moved(name: str, given: list[Tensor], made: list[Tensor]) -> int:
    if name in FILLS:
        return sum(map(_size, made))
    if name in LOOKUPS:  # of the table only the rows that are asked for
        return 2 * sum(map(_size, made))
    if name in SCATTERS:  # of the target only the rows that change; a sum reads them too
        return (3 if name == "index_add_" else 2) * _size(given[-1])
    return sum({id(t): _size(t) for t in given + made}.values())


def _operations(name: str, given: list[Tensor]) -> int:
    if name not in PRODUCTS:
        return 0
    x, weight = [t for t in given if t.dim() >= 2][-2:]
    return 2 * x.numel() * weight.shape[-1]


@contextmanager
def as_on_a_gpu(counter: Counter) -> Iterator[None]:
    """Within, meta tensors go the way of CUDA tensors; launches of Triton kernels are counted instead."""

    def widen(blocks: Tensor, scales: Tensor, out: Tensor, *_: Any) -> None:
        counter.note("widen (Triton)", _size(blocks) + _size(scales) + _size(out))

    def merge(own: Tensor, lse: Tensor, prompt: tuple[Tensor, Tensor] | None, *_: Any) -> tuple[Tensor, Tensor]:
        parts = [own, lse, *(prompt or ())]
        counter.note("merge (Triton)", sum(map(_size, parts)) + _size(own) + _size(lse))
        return torch.empty(own.shape, dtype=own.dtype, device=META), torch.empty_like(lse)

    def collect(dk: Tensor, dv: Tensor, keys: GatheredKeys, _: Any) -> tuple[Tensor, Tensor]:
        found = [x.new_empty(len(keys.home_S), *x.shape[1:]) for x in (dk, dv)]
        counter.note("collect (Triton)", sum(map(_size, (dk, dv, *found))))
        return found[0], found[1]

    def norm(x: Tensor, *_: Any) -> Tensor:
        counter.note("norm (Triton)", 2 * _size(x))
        return torch.empty(x.shape, dtype=x.dtype, device=META)

    def norm_backward(grad: Tensor, x: Tensor, *_: Any) -> Tensor:
        counter.note("norm (Triton)", 3 * _size(x))
        return torch.empty(x.shape, dtype=x.dtype, device=META)

    def silu_times(gate: Tensor, up: Tensor) -> Tensor:
        counter.note("silu times (Triton)", 3 * _size(gate))
        return torch.empty_like(gate)

    def silu_times_backward(grad: Tensor, gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
        counter.note("silu times (Triton)", 5 * _size(gate))
        return torch.empty_like(gate), torch.empty_like(up)

    def rotated(x_HSd: Tensor, *_: Any, back: bool) -> Tensor:
        counter.note("rotate (Triton)", 2 * _size(x_HSd))
        heads, tokens, width = x_HSd.shape
        return torch.empty(tokens, heads, width, dtype=x_HSd.dtype, device=META).transpose(0, 1)

    def activated(gate_up: Tensor, *_: Any) -> Tensor:
        counter.note("experts (Triton)", 3 * _size(gate_up) // 2)
        return torch.empty(len(gate_up), gate_up.shape[1] // 2, dtype=gate_up.dtype, device=META)

    def activated_backward(
        gate_up: Tensor, bias: Tensor, expert: Tensor, d_act: Tensor, grad: Tensor, share: Tensor, *_: Any
    ) -> tuple[Tensor, Tensor]:
        counter.note("experts (Triton)", 2 * _size(gate_up) + _size(d_act) + _size(grad))
        return torch.empty_like(gate_up), torch.empty(share.shape, device=META)

    def combined(rows_SD: Tensor, row_C: Tensor, choices: int, *_: Any) -> Tensor:
        counter.note("experts (Triton)", _size(rows_SD) + _size(rows_SD) // choices)
        return torch.empty(len(row_C) // choices, rows_SD.shape[1], dtype=rows_SD.dtype, device=META)

    experts: dict[str, Any] = {"activated": activated, "activated_backward": activated_backward, "combined": combined}
    always = lambda *_: True  # noqa: E731
    kernels: dict[str, Any] = {
        "available": always,
        "rms_norm": norm,
        "rms_norm_backward": norm_backward,
        "silu_times": silu_times,
        "silu_times_backward": silu_times_backward,
        "rotated": rotated,
    }
    with (
        mock.patch.object(shared_prefix, "_flash_on_cuda", always),
        mock.patch.object(in_parts, "merged", merge),
        mock.patch.object(gathered, "collected", collect),
        mock.patch.multiple(fused_kernels, **kernels),
        mock.patch.multiple(expert_kernels, **experts),
        mock.patch.object(mxfp4_experts, "_grouped", always),
        mock.patch.object(mxfp4, "available", always),
        mock.patch.object(mxfp4, "dequantise_into", widen),
        mock.patch.object(tied_head, "_on_gpu", always),
        mock.patch.dict(tied_head.CHUNK_BYTES, meta=tied_head.CHUNK_BYTES["cuda"]),
    ):
        yield


def model_of(shape: Shape, fused: bool = True) -> FrozenRoot:
    """Without memory."""
    card = {**shape.card}
    config = AutoConfig.for_model(card.pop("model_type"), **card)
    with no_init_weights(), experts_as_released(config), META:
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.requires_grad_(False).eval()
    if fused:
        fuse(model)
    return FrozenRoot(model)


def batch_of(row: int, tasks: int) -> PackedBatch:
    """A row of about so many tokens; each task's samples lie together."""
    samples = (row - tasks * LENGTH) // MEAN
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(MEAN // 2, MEAN + MEAN // 2 + 1, (samples,), generator=generator).tolist()
    slots = sorted(b % tasks for b in range(samples))
    answers = sum(max(1, round(ANSWER * n)) for n in lengths)
    number = torch.zeros(answers, dtype=torch.long, device=META)
    prefix = share_prefix(lengths, slots, tasks, LENGTH, META)
    return PackedBatch(
        ids_T=torch.zeros(sum(lengths), dtype=torch.long),
        before_N=number,
        labels_N=number,
        row_N=number,
        weights_N=torch.ones(answers, dtype=torch.float64, device=META),
        rows_K=torch.arange(tasks, device=META),
        prefix=prefix,
    )


class _Row(torch.autograd.Function):
    """The projection's kernels: one launch forward, two backward."""

    @staticmethod
    def forward(ctx: Any, shared_LD: Tensor, tokens_TD: Tensor, tasks: int, counter: Counter) -> Tensor:
        ctx.counter, ctx.shape = counter, shared_LD.shape
        row_SD = tokens_TD.new_empty(tasks * len(shared_LD) + len(tokens_TD), tokens_TD.shape[1])
        counter.note("projection (Triton)", 2 * _size(row_SD))
        return row_SD

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        for _ in range(2):
            ctx.counter.note("projection (Triton)", _size(grads[0]))
        return torch.empty(ctx.shape, device=META), None, None, None


def count(
    shape: Shape, row: int, tasks: int, teacher: bool = False, recompute: bool = False, fused: bool = True
) -> dict[str, Any]:
    """One micro-batch, forward and backward.

    Args:
        row: about so many tokens, of prompts of ``tasks`` tasks and samples. teacher: ask one too. activation_checkpointing: all
            layers.
        fused: as the key of the configuration.
    """
    root, batch, counter = model_of(shape, fused), batch_of(row, tasks), Counter()
    if recompute:
        recompute_first(root.backbone, shape.card["num_hidden_layers"])
    shared_LD = torch.empty(LENGTH, shape.card["hidden_size"], device=META, requires_grad=True)

    def fill(tokens_TD: Tensor) -> Tensor:
        return _Row.apply(shared_LD, tokens_TD, tasks, counter)  # type: ignore[no-any-return]

    def loss(weight_VD: Tensor, student_ND: Tensor, teacher_ND: Tensor | None) -> tied_head.HeadLoss:
        counter.phase = "loss"
        return tied_head.tied_head_loss(
            weight_VD, student_ND, teacher_ND, batch.labels_N, batch.weights_N, kl=0.9, hidden=0.9
        )

    with as_on_a_gpu(counter), counter:
        counter.phase = "forward"
        student_ND, found = root.forward_packed(batch, fill, loss, fill if teacher else None)
        counter.phase = "backward"
        student_ND.backward(found.gradient_ND.to(student_ND.dtype))
    return _summary(counter) | {"row": len(batch.prefix.positions_S), "text": len(batch.ids_T), "tasks": tasks}


def _summary(counter: Counter) -> dict[str, Any]:
    whole, phases, kinds = Cost(), defaultdict[str, Cost](Cost), defaultdict[str, Cost](Cost)
    for (phase, name), cost in counter.costs.items():
        for total in (whole, phases[phase], kinds[name]):
            total.add(cost)
    longest = sorted(kinds.items(), key=lambda kind: -kind[1].seconds)[:12]
    return {
        **asdict(whole),
        "matrix_share": whole.operations / MATRIX / whole.seconds,
        "phases": {name: asdict(cost) for name, cost in phases.items()},
        "longest": {name: asdict(cost) for name, cost in longest},
    }


def told(found: dict[str, Any]) -> str:
    moved, products = found["bytes"] / 1e9, found["operations"] / 1e12
    share = f"matrix products {found['matrix_share']:.2f} of it"
    return (
        f"{found['launches']:,} operators, {moved:.0f} GB, {products:.0f} TFLOP, {1e3 * found['seconds']:.0f} ms, "
        f"{share}"
    )


def main() -> None:
    protect()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--shapes", default="llama_8b,gpt_oss_20b")
    parser.add_argument("--layers", type=int, default=0, help="so many instead of all")
    parser.add_argument("--fused", choices=("auto", "off"), default="auto", help="as the key of the configuration")
    parser.add_argument("--output", type=Path)
    a = parser.parse_args()
    cases = []
    for name in a.shapes.split(","):
        shape = SHAPES[name]
        if a.layers:
            shape = replace(shape, card={**shape.card, "num_hidden_layers": a.layers})
        for row, tasks in ROWS.items():
            for stage in ("teach", "distill, teacher asked"):
                found = count(shape, row, tasks, teacher=stage != "teach", fused=a.fused == "auto")
                cases.append({"shape": name, "layers": shape.card["num_hidden_layers"], "stage": stage, **found})
                print(f"{name}, row of {found['row']:,}, {stage}: {told(found)}", flush=True)
                for kind, cost in found["longest"].items():
                    print(
                        f"    {kind:36} {cost['launches']:7,} {cost['bytes'] / 1e9:8.1f} GB "
                        f"{1e3 * cost['seconds']:8.1f} ms"
                    )
    if a.output:
        modelled = {"matrix_operations_per_s": MATRIX, "memory_bytes_per_s": MEMORY, "launch_s": LAUNCH}
        content = {"cases": cases, "modelled_on": modelled, "versions": library_versions(), "commit": source_commit()}
        a.output.parent.mkdir(parents=True, exist_ok=True)
        a.output.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
