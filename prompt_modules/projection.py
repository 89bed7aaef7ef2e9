"""Prompts and text straight into the packed row: one Triton launch forward, two backward, deterministic.

A row holds K prompts P_k = P* o (U_k V_k) of the tasks present, then T text embeddings. The bank is fp32 and
replicated; the row has the backbone's dtype. Eager torch makes the product, the scaled prompts, a cast and a
concatenation, each a trip through memory; here each number of the row is written once. Backward reads the row's
gradient and writes dP*, dU and dV without atomics: every output element is summed by one program in a fixed order, so
that two runs agree to the bit.

It is microseconds of a step of seconds: benchmarks/projection.py says how many, and what share that is.
"""

from typing import Any

import torch
from torch import Tensor

try:
    import triton
    import triton.language as tl
except ImportError:  # a CPU build of torch brings none, and needs none
    triton = None

ROWS, WIDTH = 16, 128  # of a tile: virtual or text tokens x numbers


def available(tensor: Tensor) -> bool:
    """Whether the kernels can run on this tensor's device: a GPU, or Triton's interpreter."""
    if triton is None:
        return False
    return tensor.is_cuda or triton.knobs.runtime.interpret


def packed_row_reference(
    shared_SLD: Tensor, cols_KLR: Tensor, rows_KRD: Tensor, rows_K: Tensor, tokens_TD: Tensor
) -> Tensor:
    """The same in eager torch: (K L + T, D), in the dtype of ``tokens_TD``."""
    shared = shared_SLD
    if len(shared_SLD) > 1:
        shared = shared_SLD[rows_K]
    prompts_KLD = shared * (cols_KLR[rows_K] @ rows_KRD[rows_K])
    return torch.cat([prompts_KLD.flatten(0, 1).to(tokens_TD.dtype), tokens_TD])


def packed_row(shared_SLD: Tensor, cols_KLR: Tensor, rows_KRD: Tensor, rows_K: Tensor, tokens_TD: Tensor) -> Tensor:
    """(K L + T, D): the prompts of bank rows ``rows_K`` (int64, all different), then the text.

    Args:
        shared_SLD: P*, (1, L, D) or one per bank row. cols_KLR: U. rows_KRD: V. All fp32; differentiable.
        tokens_TD: text embeddings in the backbone's dtype; constants.
    """
    if not available(tokens_TD) or shared_SLD.dtype != torch.float32:
        return packed_row_reference(shared_SLD, cols_KLR, rows_KRD, rows_K, tokens_TD)
    apply: Any = _PackedRow.apply
    sequence: Tensor = apply(shared_SLD, cols_KLR, rows_KRD, rows_K, tokens_TD)
    return sequence


class _PackedRow(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, shared: Tensor, cols: Tensor, rows: Tensor, rows_k: Tensor, tokens: Tensor) -> Tensor:
        length, rank, width, present = cols.shape[1], cols.shape[2], rows.shape[2], len(rows_k)
        out = torch.empty(present * length + len(tokens), width, dtype=tokens.dtype, device=tokens.device)
        prompt_tiles = present * triton.cdiv(length, ROWS)
        grid = (prompt_tiles + triton.cdiv(len(tokens), ROWS), triton.cdiv(width, WIDTH))
        _write_row[grid](
            out,
            shared,
            cols,
            rows,
            rows_k,
            tokens,
            len(tokens),
            length,
            width,
            prompt_tiles,
            RANK=rank,
            OWN_SHARED=len(shared) > 1,
            ROWS=ROWS,
            WIDTH=WIDTH,
        )
        ctx.save_for_backward(shared, cols, rows, rows_k)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        shared, cols, rows, rows_k = ctx.saved_tensors
        grad = grads[0].contiguous()
        length, rank, width, present = cols.shape[1], cols.shape[2], rows.shape[2], len(rows_k)
        d_shared, d_cols, d_rows = torch.zeros_like(shared), torch.zeros_like(cols), torch.zeros_like(rows)
        sizes = {"RANK": rank, "OWN_SHARED": len(shared) > 1, "ROWS": ROWS, "WIDTH": WIDTH}
        if ctx.needs_input_grad[0]:
            tiles = triton.cdiv(length, ROWS)
            if len(shared) > 1:
                tiles *= present
            _shared_gradient[(tiles, triton.cdiv(width, WIDTH))](
                d_shared, grad, cols, rows, rows_k, present, length, width, **sizes
            )
        row_tiles = triton.cdiv(length, ROWS)
        grid = (present, row_tiles + triton.cdiv(width, WIDTH))
        _factor_gradients[grid](d_cols, d_rows, grad, shared, cols, rows, rows_k, length, width, row_tiles, **sizes)
        return d_shared, d_cols, d_rows, None, None


if triton is not None:

    @triton.jit
    def _write_row(
        out,
        shared,
        cols,
        rows,
        rows_k,
        tokens,
        n_tokens,
        length,
        width,
        prompt_tiles,
        RANK: tl.constexpr,
        OWN_SHARED: tl.constexpr,
        ROWS: tl.constexpr,
        WIDTH: tl.constexpr,
    ):
        tile = tl.program_id(0)
        d = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
        in_row = d < width
        if tile < prompt_tiles:
            per_prompt = tl.cdiv(length, ROWS)
            slot = tile // per_prompt
            at = (tile % per_prompt) * ROWS + tl.arange(0, ROWS)
            k = tl.load(rows_k + slot)
            inside = (at < length)[:, None] & in_row[None, :]
            scale = tl.zeros((ROWS, WIDTH), tl.float32)
            for r in tl.static_range(RANK):
                u = tl.load(cols + (k * length + at) * RANK + r, mask=at < length, other=0.0)
                v = tl.load(rows + (k * RANK + r) * width + d, mask=in_row, other=0.0)
                scale += u[:, None] * v[None, :]
            own = k * length if OWN_SHARED else 0
            p = tl.load(shared + (own + at)[:, None] * width + d[None, :], mask=inside, other=0.0)
            place = (slot * length + at)[:, None] * width + d[None, :]
            tl.store(out + place, (p * scale).to(out.dtype.element_ty), mask=inside)
        else:
            at = (tile - prompt_tiles) * ROWS + tl.arange(0, ROWS)
            inside = (at < n_tokens)[:, None] & in_row[None, :]
            text = tl.load(tokens + at[:, None] * width + d[None, :], mask=inside, other=0.0)
            first = (prompt_tiles // tl.cdiv(length, ROWS)) * length
            tl.store(out + (first + at)[:, None] * width + d[None, :], text, mask=inside)

    @triton.jit
    def _shared_gradient(
        d_shared,
        grad,
        cols,
        rows,
        rows_k,
        present,
        length,
        width,
        RANK: tl.constexpr,
        OWN_SHARED: tl.constexpr,
        ROWS: tl.constexpr,
        WIDTH: tl.constexpr,
    ):
        tile = tl.program_id(0)
        per_prompt = tl.cdiv(length, ROWS)
        at = (tile % per_prompt) * ROWS + tl.arange(0, ROWS)
        d = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
        inside = (at < length)[:, None] & (d < width)[None, :]
        total = tl.zeros((ROWS, WIDTH), tl.float32)
        first = tile // per_prompt if OWN_SHARED else 0
        last = first + 1 if OWN_SHARED else present
        k = tl.load(rows_k + first)
        for slot in range(first, last):
            k = tl.load(rows_k + slot)
            g = tl.load(grad + (slot * length + at)[:, None] * width + d[None, :], mask=inside, other=0.0).to(
                tl.float32
            )
            scale = tl.zeros((ROWS, WIDTH), tl.float32)
            for r in tl.static_range(RANK):
                u = tl.load(cols + (k * length + at) * RANK + r, mask=at < length, other=0.0)
                v = tl.load(rows + (k * RANK + r) * width + d, mask=d < width, other=0.0)
                scale += u[:, None] * v[None, :]
            total += g * scale
        own = k * length if OWN_SHARED else 0
        tl.store(d_shared + (own + at)[:, None] * width + d[None, :], total, mask=inside)

    @triton.jit
    def _factor_gradients(
        d_cols,
        d_rows,
        grad,
        shared,
        cols,
        rows,
        rows_k,
        length,
        width,
        row_tiles,
        RANK: tl.constexpr,
        OWN_SHARED: tl.constexpr,
        ROWS: tl.constexpr,
        WIDTH: tl.constexpr,
    ):
        slot = tl.program_id(0)
        k = tl.load(rows_k + slot)
        own = k * length if OWN_SHARED else 0
        part = tl.program_id(1)
        if part < row_tiles:  # dU of some virtual tokens: over the width, in order
            at = part * ROWS + tl.arange(0, ROWS)
            for r in tl.static_range(RANK):
                total = tl.zeros((ROWS,), tl.float32)
                for begin in range(0, width, WIDTH):
                    d = begin + tl.arange(0, WIDTH)
                    inside = (at < length)[:, None] & (d < width)[None, :]
                    g = tl.load(grad + (slot * length + at)[:, None] * width + d[None, :], mask=inside, other=0.0).to(
                        tl.float32
                    )
                    p = tl.load(shared + (own + at)[:, None] * width + d[None, :], mask=inside, other=0.0)
                    v = tl.load(rows + (k * RANK + r) * width + d, mask=d < width, other=0.0)
                    total += tl.sum(g * p * v[None, :], 1)
                tl.store(d_cols + (k * length + at) * RANK + r, total, mask=at < length)
        else:  # dV of some numbers: over the virtual tokens, in order
            d = (part - row_tiles) * WIDTH + tl.arange(0, WIDTH)
            for r in tl.static_range(RANK):
                across = tl.zeros((WIDTH,), tl.float32)
                for begin in range(0, length, ROWS):
                    at = begin + tl.arange(0, ROWS)
                    inside = (at < length)[:, None] & (d < width)[None, :]
                    g = tl.load(grad + (slot * length + at)[:, None] * width + d[None, :], mask=inside, other=0.0).to(
                        tl.float32
                    )
                    p = tl.load(shared + (own + at)[:, None] * width + d[None, :], mask=inside, other=0.0)
                    u = tl.load(cols + (k * length + at) * RANK + r, mask=at < length, other=0.0)
                    across += tl.sum(g * p * u[:, None], 0)
                tl.store(d_rows + (k * RANK + r) * width + d, across, mask=d < width)
