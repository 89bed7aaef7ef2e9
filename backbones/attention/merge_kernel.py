"""Two parts of an attention, and a sink, as one: a Triton launch that reads each part once and writes the whole
once.
"""

import torch
from torch import Tensor

from backbones.kernels import available

__all__ = ["available", "merged"]

try:
    import triton
    import triton.language as tl
except ImportError:  # a CPU build of torch brings none, and needs none
    triton = None

ROWS = 16  # tokens of one head that one program merges


def merged(
    own_SHd: Tensor, lse_HS: Tensor, prompt: tuple[Tensor, Tensor] | None, sinks_H: Tensor | None, first: int
) -> tuple[Tensor, Tensor]:
    """As ``in_parts.merged``. The output is contiguous, however the parts lie; their last dimension is."""
    tokens, heads, width = own_SHd.shape
    out, total = own_SHd.new_empty(own_SHd.shape), torch.empty_like(lse_HS, memory_format=torch.contiguous_format)
    other, lse_other = (own_SHd, lse_HS) if prompt is None else prompt
    grid = (triton.cdiv(tokens, ROWS), heads)
    _merge[grid](
        out,
        total,
        own_SHd,
        lse_HS.contiguous(),
        other,
        lse_other.contiguous(),
        total if sinks_H is None else sinks_H,
        tokens,
        tokens if prompt is None else first,
        heads,
        width,
        own_SHd.stride(0),
        own_SHd.stride(1),
        other.stride(0),
        other.stride(1),
        SINK=sinks_H is not None,
        ROWS=ROWS,
        WIDTH=triton.next_power_of_2(width),
    )
    return out, total


if triton is not None:

    @triton.jit
    def _log_add(a, b):
        larger = tl.maximum(a, b)
        return larger + tl.log(tl.exp(a - larger) + tl.exp(b - larger))

    @triton.jit
    def _merge(
        out,
        total,
        own,
        lse_own,
        other,
        lse_other,
        sinks,
        tokens,
        first,
        heads,
        width,
        own_row,
        own_head,
        other_row,
        other_head,
        SINK: tl.constexpr,
        ROWS: tl.constexpr,
        WIDTH: tl.constexpr,
    ):
        head = tl.program_id(1)
        row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
        real, follows = row < tokens, (row >= first) & (row < tokens)
        own_lse = tl.load(lse_own + head * tokens + row, mask=real, other=0.0)
        other_lse = tl.load(lse_other + head * (tokens - first) + row - first, mask=follows, other=float("-inf"))
        both = _log_add(own_lse, other_lse)
        if SINK:
            both = _log_add(both, tl.load(sinks + head).to(tl.float32))
        tl.store(total + head * tokens + row, both, mask=real)
        d = tl.arange(0, WIDTH)
        inside, of_other = real[:, None] & (d < width)[None, :], follows[:, None] & (d < width)[None, :]
        x = tl.load(own + row[:, None] * own_row + head * own_head + d[None, :], mask=inside, other=0.0).to(tl.float32)
        y = tl.load(
            other + (row - first)[:, None] * other_row + head * other_head + d[None, :], mask=of_other, other=0.0
        ).to(tl.float32)
        whole = x * tl.exp(own_lse - both)[:, None] + y * tl.exp(other_lse - both)[:, None]
        place = (row[:, None] * heads + head) * width + d[None, :]
        tl.store(out + place, whole.to(out.dtype.element_ty), mask=inside)
