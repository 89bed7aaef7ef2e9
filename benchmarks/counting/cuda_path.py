"""The way of CUDA tensors, taken by meta tensors: Triton kernels are noted in place of being launched."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from backbones.attention import GatheredKeys, gathered, in_parts, shared_prefix
from backbones.kernels import experts as expert_kernels, fused as fused_kernels, mxfp4
from backbones.layers import mxfp4_experts
from benchmarks.counting.counter import META, Counter, size_of
from prompt_modules import tied_head


class Kernels:
    """In place of each Triton kernel: notes what it would move, and gives out a tensor of its result's shape."""

    def __init__(self, counter: Counter) -> None:
        self.counter = counter

    def widen(self, blocks: Tensor, scales: Tensor, out: Tensor, *_: Any, **__: Any) -> None:
        self.counter.note("widen (Triton)", size_of(blocks) + size_of(scales) + size_of(out))

    def merge(
        self, own: Tensor, lse: Tensor, prompt: tuple[Tensor, Tensor] | None, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        parts = [own, lse, *(prompt or ())]
        self.counter.note("merge (Triton)", sum(map(size_of, parts)) + size_of(own) + size_of(lse))
        return torch.empty(own.shape, dtype=own.dtype, device=META), torch.empty_like(lse)

    def collect(self, dk: Tensor, dv: Tensor, keys: GatheredKeys, _: Any) -> tuple[Tensor, Tensor]:
        found = [x.new_empty(len(keys.home_S), *x.shape[1:]) for x in (dk, dv)]
        self.counter.note("collect (Triton)", sum(map(size_of, (dk, dv, *found))))
        return found[0], found[1]

    def norm(self, x: Tensor, *_: Any, **__: Any) -> Tensor:
        self.counter.note("norm (Triton)", 2 * size_of(x))
        return torch.empty(x.shape, dtype=x.dtype, device=META)

    def norm_backward(self, grad: Tensor, x: Tensor, *_: Any, **__: Any) -> Tensor:
        self.counter.note("norm (Triton)", 3 * size_of(x))
        return torch.empty(x.shape, dtype=x.dtype, device=META)

    def silu_times(self, gate: Tensor, up: Tensor) -> Tensor:
        self.counter.note("silu times (Triton)", 3 * size_of(gate))
        return torch.empty_like(gate)

    def silu_times_backward(self, grad: Tensor, gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
        self.counter.note("silu times (Triton)", 5 * size_of(gate))
        return torch.empty_like(gate), torch.empty_like(up)

    def rotated(self, x_HSd: Tensor, *_: Any, back: bool, **__: Any) -> Tensor:
        self.counter.note("rotate (Triton)", 2 * size_of(x_HSd))
        heads, tokens, width = x_HSd.shape
        return torch.empty(tokens, heads, width, dtype=x_HSd.dtype, device=META).transpose(0, 1)

    def activated(self, gate_up: Tensor, *_: Any, **__: Any) -> Tensor:
        self.counter.note("experts (Triton)", 3 * size_of(gate_up) // 2)
        return torch.empty(len(gate_up), gate_up.shape[1] // 2, dtype=gate_up.dtype, device=META)

    def activated_backward(
        self, gate_up: Tensor, bias: Tensor, expert: Tensor, d_act: Tensor, grad: Tensor, share: Tensor, *_: Any
    ) -> tuple[Tensor, Tensor]:
        self.counter.note("experts (Triton)", 2 * size_of(gate_up) + size_of(d_act) + size_of(grad))
        return torch.empty_like(gate_up), torch.empty(share.shape, device=META)

    def combined(self, rows_SD: Tensor, row_C: Tensor, choices: int, *_: Any, **__: Any) -> Tensor:
        self.counter.note("experts (Triton)", size_of(rows_SD) + size_of(rows_SD) // choices)
        return torch.empty(len(row_C) // choices, rows_SD.shape[1], dtype=rows_SD.dtype, device=META)


def _always(*_: Any, **__: Any) -> bool:
    return True


@contextmanager
def as_on_a_gpu(counter: Counter) -> Iterator[None]:
    """Within, meta tensors go the way of CUDA tensors; launches of Triton kernels are counted instead."""
    noted = Kernels(counter)
    experts: dict[str, Any] = {
        "activated": noted.activated,
        "activated_backward": noted.activated_backward,
        "combined": noted.combined,
    }
    kernels: dict[str, Any] = {
        "available": _always,
        "rms_norm": noted.norm,
        "rms_norm_backward": noted.norm_backward,
        "silu_times": noted.silu_times,
        "silu_times_backward": noted.silu_times_backward,
        "rotated": noted.rotated,
    }
    with (
        mock.patch.object(shared_prefix, "_flash_on_cuda", _always),
        mock.patch.object(in_parts, "merged", noted.merge),
        mock.patch.object(gathered, "collected", noted.collect),
        mock.patch.multiple(fused_kernels, **kernels),
        mock.patch.multiple(expert_kernels, **experts),
        mock.patch.object(mxfp4_experts, "_grouped", _always),
        mock.patch.object(mxfp4, "available", _always),
        mock.patch.object(mxfp4, "dequantise_into", noted.widen),
        mock.patch.object(tied_head, "_on_gpu", _always),
        mock.patch.dict(tied_head.CHUNK_BYTES, meta=tied_head.CHUNK_BYTES["cuda"]),
    ):
        yield
