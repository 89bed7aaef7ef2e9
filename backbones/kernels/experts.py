"""What lies between the products of gpt-oss's experts, one Triton launch each: biases, the clamped SwiGLU, and each
token's weighted sum.

S = T k rows, those of an expert together; row s is choice ``order_S[s]`` of the (T, k) flattened, and choice c lies in
row ``row_C[c]``. All in fp32, rounded as it is written; sums in a fixed order, the same bits each time.
"""

import torch
from torch import Tensor

try:
    import triton
    import triton.language as tl
except ImportError:  # a CPU build of torch brings none, and needs none
    triton = None

BLOCK = 1024  # numbers of a row that are taken at once


def activated(gate_up: Tensor, bias: Tensor, expert_S: Tensor, alpha: float, limit: float) -> Tensor:
    """(up + 1) gate sigmoid(alpha gate), both clamped: gate_up (S, 2I) interleaved, its bias (E, 2I) not yet in it
    -> (S, I).
    """
    rows, inner = gate_up.shape[0], gate_up.shape[1] // 2
    out = gate_up.new_empty(rows, inner)
    if rows:
        _activate[(rows, triton.cdiv(inner, BLOCK))](gate_up, bias, expert_S, out, inner, alpha, limit, BLOCK=BLOCK)
    return out


def activated_backward(
    gate_up: Tensor,
    bias: Tensor,
    expert_S: Tensor,
    d_act: Tensor,
    grad_TD: Tensor,
    share_Tk: Tensor,
    down_bias: Tensor,
    order_S: Tensor,
    alpha: float,
    limit: float,
) -> tuple[Tensor, Tensor]:
    """Gradients of gate_up (S, 2I) and of share_Tk, in fp32.

    Args:
        d_act: (S, I), of the activations before their share. grad_TD: of the tokens' sums.
    """
    d_gate_up, d_share = (
        torch.empty_like(gate_up),
        torch.empty(share_Tk.shape, dtype=torch.float32, device=gate_up.device),
    )
    rows, inner = d_act.shape
    if rows:
        _activate_backward[(rows,)](
            gate_up,
            bias,
            expert_S,
            d_act,
            grad_TD,
            share_Tk,
            down_bias,
            order_S,
            d_gate_up,
            d_share,
            inner,
            grad_TD.shape[1],
            alpha,
            limit,
            CHOICES=share_Tk.shape[1],
            BLOCK=BLOCK,
        )
    return d_gate_up, d_share


def combined(
    rows_SD: Tensor,
    row_C: Tensor,
    choices: int,
    share_Tk: Tensor | None = None,
    bias: Tensor | None = None,
    experts_Tk: Tensor | None = None,
) -> Tensor:
    """Each token's ``choices`` rows, summed, (T, D); with their share, after each expert's bias (E, D)."""
    tokens, width = len(row_C) // choices, rows_SD.shape[1]
    out = rows_SD.new_empty(tokens, width)
    weighted = share_Tk is not None
    share, own, experts = (share_Tk, bias, experts_Tk) if weighted else (rows_SD, rows_SD, row_C)
    if tokens:
        _combine[(tokens, triton.cdiv(width, BLOCK))](
            rows_SD, row_C, share, own, experts, out, width, CHOICES=choices, WEIGHTED=weighted, BLOCK=BLOCK
        )
    return out


if triton is not None:

    @triton.jit
    def _with_bias(gate_up, bias, row, expert, begin, inner, BLOCK: tl.constexpr):
        """Gate and up of ``BLOCK`` numbers, which lie interleaved: read as they lie, then parted, for a load of
        every second number takes twice the time.
        """
        i = 2 * begin + tl.arange(0, 2 * BLOCK)
        real = i < 2 * inner
        x = tl.load(gate_up + row * 2 * inner + i, mask=real, other=0.0).to(tl.float32)
        x += tl.load(bias + expert * 2 * inner + i, mask=real, other=0.0).to(tl.float32)
        return tl.split(tl.reshape(x, (BLOCK, 2)))

    @triton.jit
    def _clamped(gate, up, limit):
        """By comparison: tl.minimum and tl.maximum would make a number of a NaN, and a row that diverges would go
        unseen.
        """
        up = tl.where(up > limit, limit, up)
        return tl.where(gate > limit, limit, gate), tl.where(up < -limit, -limit, up)

    @triton.jit
    def _activate(gate_up, bias, expert, out, inner, alpha, limit, BLOCK: tl.constexpr):
        row = tl.program_id(0).to(tl.int64)
        begin = tl.program_id(1) * BLOCK
        gate, up = _with_bias(gate_up, bias, row, tl.load(expert + row), begin, inner, BLOCK)
        gate, up = _clamped(gate, up, limit)
        act = (up + 1.0) * gate / (1.0 + tl.exp(-alpha * gate))
        i = begin + tl.arange(0, BLOCK)
        tl.store(out + row * inner + i, act.to(out.dtype.element_ty), mask=i < inner)

    @triton.jit
    def _activate_backward(
        gate_up,
        bias,
        expert,
        d_act,
        grad,
        share,
        down_bias,
        order,
        d_gate_up,
        d_share,
        inner,
        width,
        alpha,
        limit,
        CHOICES: tl.constexpr,
        BLOCK: tl.constexpr,
    ):
        row = tl.program_id(0).to(tl.int64)
        e, choice = tl.load(expert + row), tl.load(order + row)
        weight = tl.load(share + choice).to(tl.float32)
        total = tl.zeros((BLOCK,), tl.float32)
        for begin in range(0, inner, BLOCK):
            gate_in, up_in = _with_bias(gate_up, bias, row, e, begin, inner, BLOCK)
            gate, up = _clamped(gate_in, up_in, limit)
            sigmoid = 1.0 / (1.0 + tl.exp(-alpha * gate))
            glu = gate * sigmoid
            i = begin + tl.arange(0, BLOCK)
            g = tl.load(d_act + row * inner + i, mask=i < inner, other=0.0).to(tl.float32)
            total += g * (up + 1.0) * glu
            g = g * weight
            d_gate = tl.where(gate_in > limit, 0.0, g * (up + 1.0) * (sigmoid + alpha * glu * (1.0 - sigmoid)))
            d_up = tl.where(tl.abs(up_in) > limit, 0.0, g * glu)
            both = 2 * begin + tl.arange(0, 2 * BLOCK)
            tl.store(
                d_gate_up + row * 2 * inner + both,
                tl.interleave(d_gate, d_up).to(d_gate_up.dtype.element_ty),
                mask=both < 2 * inner,
            )
        token = choice // CHOICES
        for begin in range(0, width, BLOCK):
            d = begin + tl.arange(0, BLOCK)
            g = tl.load(grad + token * width + d, mask=d < width, other=0.0).to(tl.float32)
            total += g * tl.load(down_bias + e * width + d, mask=d < width, other=0.0).to(tl.float32)
        tl.store(d_share + choice, tl.sum(total, 0))

    @triton.jit
    def _combine(
        rows,
        row_of,
        share,
        bias,
        experts,
        out,
        width,
        CHOICES: tl.constexpr,
        WEIGHTED: tl.constexpr,
        BLOCK: tl.constexpr,
    ):
        token = tl.program_id(0).to(tl.int64)
        d = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
        total = tl.zeros((BLOCK,), tl.float32)
        for j in tl.static_range(CHOICES):
            choice = token * CHOICES + j
            y = tl.load(rows + tl.load(row_of + choice) * width + d, mask=d < width, other=0.0).to(tl.float32)
            if WEIGHTED:
                y += tl.load(bias + tl.load(experts + choice) * width + d, mask=d < width, other=0.0).to(tl.float32)
                y = y * tl.load(share + choice).to(tl.float32)
            total += y
        tl.store(out + token * width + d, total.to(out.dtype.element_ty), mask=d < width)
