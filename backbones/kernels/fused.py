"""Elementwise parts of a decoder layer, one Triton launch each way: RMSNorm, SiLU times a gate, rotary positions.

Weights are frozen, so the backward passes give the gradient of the inputs alone and keep nothing but the inputs. Sums
are in fp32.
"""

import torch
from torch import Tensor

try:
    import triton
    import triton.language as tl
except ImportError:  # a CPU build of torch brings none, and needs none
    triton = None

BLOCK = 1024  # numbers that one program of the elementwise kernels takes
HEADS = 8  # of a token, that one program rotates
WIDEST = 16384  # numbers of a row that one program norms


def available(tensor: Tensor) -> bool:
    """Whether the kernels can run on this tensor: 32 bits a number or fewer, on a GPU or in Triton's interpreter."""
    if triton is None or tensor.element_size() > 4:
        return False
    return tensor.is_cuda or triton.knobs.runtime.interpret


def rms_norm(x: Tensor, weight_D: Tensor, eps: float, wide: bool) -> Tensor:
    """x (…, D), normed and scaled. wide: the weight meets numbers in fp32; else they are rounded to the dtype of
    ``x`` before.
    """
    x, out = x.contiguous(), torch.empty_like(x, memory_format=torch.contiguous_format)
    width = x.shape[-1]
    _norm[(x.numel() // width,)](x, weight_D, out, width, eps, WIDE=wide, BLOCK=triton.next_power_of_2(width))
    return out


def rms_norm_backward(grad: Tensor, x: Tensor, weight_D: Tensor, eps: float) -> Tensor:
    """The gradient of ``x``."""
    grad, x = grad.contiguous(), x.contiguous()
    out, width = torch.empty_like(x), x.shape[-1]
    _norm_backward[(x.numel() // width,)](grad, x, weight_D, out, width, eps, BLOCK=triton.next_power_of_2(width))
    return out


def silu_times(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) up, element by element."""
    gate, up = gate.contiguous(), up.contiguous()
    out = torch.empty_like(gate)
    _silu_times[(triton.cdiv(gate.numel(), BLOCK),)](gate, up, out, gate.numel(), BLOCK=BLOCK)
    return out


def silu_times_backward(grad: Tensor, gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients of ``gate`` and ``up``."""
    grad, gate, up = grad.contiguous(), gate.contiguous(), up.contiguous()
    d_gate, d_up = torch.empty_like(gate), torch.empty_like(up)
    _silu_times_backward[(triton.cdiv(gate.numel(), BLOCK),)](grad, gate, up, d_gate, d_up, gate.numel(), BLOCK=BLOCK)
    return d_gate, d_up


def rotated(x_HSd: Tensor, cos_Sd: Tensor, sin_Sd: Tensor, back: bool) -> Tensor:
    """Pairs (x[i], x[i + d/2]) turned by their position's angle; ``back``: a gradient through it. Lies as (S, H, d),
    the last dimension together.

    Args:
        cos_Sd, sin_Sd: of all d numbers, or of one half where both are alike.
    """
    heads, tokens, width = x_HSd.shape
    out = torch.empty(tokens, heads, width, dtype=x_HSd.dtype, device=x_HSd.device).transpose(0, 1)
    x_HSd = x_HSd if x_HSd.stride(-1) == 1 else x_HSd.contiguous()
    cos_Sd, sin_Sd = cos_Sd.contiguous(), sin_Sd.contiguous()
    half, angles = width // 2, cos_Sd.shape[-1]
    _rotate[(tokens, triton.cdiv(heads, HEADS))](
        x_HSd,
        cos_Sd,
        sin_Sd,
        out,
        heads,
        half,
        angles,
        angles - half,
        x_HSd.stride(0),
        x_HSd.stride(1),
        BACK=back,
        HEADS=HEADS,
        BLOCK=triton.next_power_of_2(half),
    )
    return out


if triton is not None:

    @triton.jit
    def _rotate(
        x,
        cos,
        sin,
        out,
        heads,
        half,
        angles,
        second,
        x_head,
        x_token,
        BACK: tl.constexpr,
        HEADS: tl.constexpr,
        BLOCK: tl.constexpr,
    ):
        token = tl.program_id(0).to(tl.int64)
        head, d = tl.program_id(1) * HEADS + tl.arange(0, HEADS), tl.arange(0, BLOCK)
        real = (head < heads)[:, None] & (d < half)[None, :]
        angle = token * angles + d
        cos_1 = tl.load(cos + angle, mask=d < half, other=0.0).to(tl.float32)[None, :]
        sin_1 = tl.load(sin + angle, mask=d < half, other=0.0).to(tl.float32)[None, :]
        cos_2 = tl.load(cos + angle + second, mask=d < half, other=0.0).to(tl.float32)[None, :]
        sin_2 = tl.load(sin + angle + second, mask=d < half, other=0.0).to(tl.float32)[None, :]
        there = x + token * x_token + head[:, None] * x_head + d[None, :]
        x_1 = tl.load(there, mask=real, other=0.0).to(tl.float32)
        x_2 = tl.load(there + half, mask=real, other=0.0).to(tl.float32)
        if BACK:
            y_1, y_2 = x_1 * cos_1 + x_2 * sin_2, x_2 * cos_2 - x_1 * sin_1
        else:
            y_1, y_2 = x_1 * cos_1 - x_2 * sin_1, x_2 * cos_2 + x_1 * sin_2
        place = out + (token * heads + head[:, None]) * (2 * half) + d[None, :]
        tl.store(place, y_1.to(out.dtype.element_ty), mask=real)
        tl.store(place + half, y_2.to(out.dtype.element_ty), mask=real)

    @triton.jit
    def _norm(x, weight, out, width, eps, WIDE: tl.constexpr, BLOCK: tl.constexpr):
        row = tl.program_id(0).to(tl.int64) * width
        d = tl.arange(0, BLOCK)
        v = tl.load(x + row + d, mask=d < width, other=0.0).to(tl.float32)
        normed = v * (1.0 / tl.sqrt(tl.sum(v * v, 0) / width + eps))
        if not WIDE:
            normed = normed.to(out.dtype.element_ty).to(tl.float32)
        w = tl.load(weight + d, mask=d < width, other=0.0).to(tl.float32)
        tl.store(out + row + d, (w * normed).to(out.dtype.element_ty), mask=d < width)

    @triton.jit
    def _norm_backward(grad, x, weight, out, width, eps, BLOCK: tl.constexpr):
        row = tl.program_id(0).to(tl.int64) * width
        d = tl.arange(0, BLOCK)
        v = tl.load(x + row + d, mask=d < width, other=0.0).to(tl.float32)
        scale = 1.0 / tl.sqrt(tl.sum(v * v, 0) / width + eps)
        normed = v * scale
        w = tl.load(weight + d, mask=d < width, other=0.0).to(tl.float32)
        g = tl.load(grad + row + d, mask=d < width, other=0.0).to(tl.float32) * w
        dx = scale * (g - normed * (tl.sum(g * normed, 0) / width))
        tl.store(out + row + d, dx.to(out.dtype.element_ty), mask=d < width)

    @triton.jit
    def _silu_times(gate, up, out, n, BLOCK: tl.constexpr):
        i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
        g = tl.load(gate + i, mask=i < n, other=0.0).to(tl.float32)
        u = tl.load(up + i, mask=i < n, other=0.0).to(tl.float32)
        silu = (g / (1.0 + tl.exp(-g))).to(out.dtype.element_ty).to(tl.float32)
        tl.store(out + i, (silu * u).to(out.dtype.element_ty), mask=i < n)

    @triton.jit
    def _silu_times_backward(grad, gate, up, d_gate, d_up, n, BLOCK: tl.constexpr):
        i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
        y = tl.load(grad + i, mask=i < n, other=0.0).to(tl.float32)
        g = tl.load(gate + i, mask=i < n, other=0.0).to(tl.float32)
        u = tl.load(up + i, mask=i < n, other=0.0).to(tl.float32)
        sigmoid = 1.0 / (1.0 + tl.exp(-g))
        tl.store(d_up + i, (y * g * sigmoid).to(d_up.dtype.element_ty), mask=i < n)
        tl.store(d_gate + i, (y * u * sigmoid * (1.0 + g * (1.0 - sigmoid))).to(d_gate.dtype.element_ty), mask=i < n)
