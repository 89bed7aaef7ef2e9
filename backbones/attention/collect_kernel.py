"""Gradients of gathered keys and values taken back to their row: one Triton launch, each number read once and
written once.
"""

from torch import Tensor

from backbones.attention.packing import GatheredKeys, SharedPrefix
from backbones.kernels import available

__all__ = ["available", "collected"]

try:
    import triton
    import triton.language as tl
except ImportError:  # a CPU build of torch brings none, and needs none
    triton = None


def collected(dk: Tensor, dv: Tensor, keys: GatheredKeys, prefix: SharedPrefix) -> tuple[Tensor, Tensor]:
    """As ``gathered_attention.collected``."""
    dk, dv, width = dk.contiguous(), dv.contiguous(), dk[0].numel()
    out_k, out_v = (x.new_empty(len(keys.home_S), *x.shape[1:]) for x in (dk, dv))
    _collect[(len(keys.home_S),)](
        dk,
        dv,
        out_k,
        out_v,
        keys.home_S,
        keys.first_B,
        keys.begins,
        prefix.n_prompts * prefix.length,
        prefix.length,
        keys.reach,
        width,
        BLOCK=triton.next_power_of_2(width),
    )
    return out_k, out_v


if triton is not None:

    @triton.jit
    def _collect(dk, dv, out_k, out_v, home, first_of, begins, prompts, length, reach, width, BLOCK: tl.constexpr):
        row = tl.program_id(0).to(tl.int64)
        d = tl.arange(0, BLOCK)
        real = d < width
        there = tl.load(home + row) * width + d
        k = tl.load(dk + there, mask=real, other=0.0).to(tl.float32)
        v = tl.load(dv + there, mask=real, other=0.0).to(tl.float32)
        if row < prompts:
            slot, at = row // length, row % length - (length - reach)
            if at >= 0:
                for b in range(tl.load(begins + slot), tl.load(begins + slot + 1)):
                    there = (tl.load(first_of + b) + at) * width + d
                    k += tl.load(dk + there, mask=real, other=0.0).to(tl.float32)
                    v += tl.load(dv + there, mask=real, other=0.0).to(tl.float32)
        tl.store(out_k + row * width + d, k.to(out_k.dtype.element_ty), mask=real)
        tl.store(out_v + row * width + d, v.to(out_v.dtype.element_ty), mask=real)
