"""MXFP4: gpt-oss's experts stay the four bits a number that they were released in, and are widened as they are used.

A block is 32 numbers of one output row: 16 bytes of two e2m1 numbers each (low nibble first) and one shared power of
two, biased by 127 (OCP Microscaling Formats v1.0). As ``experts.gate_up_proj_blocks`` (E, 2I, D/32, 16) and ``_scales``
(E, 2I, D/32), both uint8, they pass through DeepSpeed's partitioning, offload and gathers unchanged, at 0.27 of bf16's
bytes.

The values are those of transformers' dequantised model to the bit. transformers holds MXFP4 to be untrainable; a
*frozen* expert needs no gradient of its weights, and the backward pass here widens them again rather than keep them.
"""

from typing import Any

import torch
from torch import Tensor, nn

from backbones.kernels import experts as expert_kernels, fused, mxfp4

BLOCK = 32
# e2m1: sign, two bits of exponent, one of mantissa
E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0)
PACKED = ("gate_up_proj", "down_proj")
PAIR_OF = {2: torch.int32, 4: torch.int64, 8: torch.complex128}  # bytes of a number -> a type that holds two

_tables: dict[tuple[torch.device, torch.dtype], tuple[Tensor, Tensor]] = {}
_buffers: dict[tuple[torch.device, torch.dtype], Tensor] = {}


def dequantise(
    blocks: Tensor, scales: Tensor, dtype: torch.dtype, out: Tensor | None = None, ends_E: Tensor | None = None
) -> Tensor:
    """uint8 (…, G, 16) and (…, G) -> (…, 32 G) in ``dtype``.

    Args:
        out: 1-D memory of that many numbers to write to. ends_E: where each expert's rows end; on a GPU those without a
            row are not written.
    """
    shape = (*scales.shape[:-1], scales.shape[-1] * BLOCK)
    if out is None:
        out = torch.empty(scales.numel() * BLOCK, dtype=dtype, device=blocks.device)
    if mxfp4.available(blocks):
        mxfp4.dequantise_into(blocks, scales, out, ends_E)
        return out.view(shape)
    pairs, powers = _tables_for(blocks.device, dtype)
    torch.index_select(pairs, 0, blocks.flatten().int(), out=out.view(pairs.dtype))
    out.view(-1, BLOCK).mul_(powers[scales.flatten().int()][:, None])
    return out.view(shape)


def _tables_for(device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Of a byte the two numbers in it, as one twice as wide, (256,); of a scale its power of two, (256,)."""
    if (device, dtype) not in _tables:
        byte = torch.arange(256)
        pairs = torch.tensor(E2M1)[torch.stack([byte & 15, byte >> 4], 1)]
        powers = torch.ldexp(torch.ones(256), torch.arange(256) - 127)
        powers[255] = torch.nan  # as the format has it
        _tables[device, dtype] = (
            pairs.to(device, dtype).view(PAIR_OF[dtype.itemsize]).flatten(),
            powers.to(device, dtype),
        )
    return _tables[device, dtype]


def quantise(weight: Tensor) -> tuple[Tensor, Tensor]:
    """(…, 32 G) -> blocks (…, G, 16) and scales (…, G).

    The largest number of a block gets the highest exponent. The rest get the nearest value, ties to even.
    """
    values = weight.detach().float().unflatten(-1, (-1, BLOCK))
    largest = values.abs().amax(-1, keepdim=True)
    exponent = torch.where(largest > 0, torch.frexp(largest).exponent - 1 - 2, -127).clamp(
        -127, 127
    )  # 2: e2m1's highest
    scaled = torch.ldexp(values.abs().double(), -exponent).clamp(max=6.0).float()
    step = torch.where(scaled < 2, 0.5, torch.where(scaled < 4, 1.0, 2.0))
    rounded = torch.round(scaled / step) * step
    code = torch.bucketize(rounded.contiguous(), torch.tensor(E2M1[:8], device=weight.device)).to(torch.uint8)
    code |= (values.signbit().to(torch.uint8)) << 3
    return code[..., ::2] | (code[..., 1::2] << 4), (exponent[..., 0] + 127).to(torch.uint8)


class Mxfp4Experts(nn.Module):
    """Takes the place of transformers' GptOssExperts: the same function, frozen, its parameters as released."""

    def __init__(self, config: Any):
        super().__init__()
        experts, hidden, inner = config.num_local_experts, config.hidden_size, config.intermediate_size
        self.fused = False  # what lies between the products in kernels of its own, where they run
        self.alpha, self.limit = getattr(config, "swiglu_alpha", 1.702), getattr(config, "swiglu_limit", 7.0)
        for name, rows, width in (("gate_up_proj", 2 * inner, hidden), ("down_proj", hidden, inner)):
            for suffix, shape in (("blocks", (width // BLOCK, 16)), ("scales", (width // BLOCK,))):
                empty = torch.empty(experts, rows, *shape, dtype=torch.uint8)
                self.register_parameter(f"{name}_{suffix}", nn.Parameter(empty, requires_grad=False))
            self.register_parameter(f"{name}_bias", nn.Parameter(torch.empty(experts, rows), requires_grad=False))

    def forward(self, hidden_states: Tensor, router_indices: Tensor, routing_weights: Tensor) -> Tensor:
        """(T, D) with the (T, k) experts of each token and their weights -> (T, D)."""
        weights = (
            self.gate_up_proj_blocks,
            self.gate_up_proj_scales,
            self.gate_up_proj_bias,
            self.down_proj_blocks,
            self.down_proj_scales,
            self.down_proj_bias,
        )
        operator: Any = _Experts
        if self.fused and fused.available(hidden_states):
            operator = _FusedExperts
        out: Tensor = operator.apply(hidden_states, router_indices, routing_weights, weights, self.alpha, self.limit)
        return out


class _Experts(torch.autograd.Function):
    """S = T k rows, those of an expert together. Keeps the rows' first products (S, 2I), never a wide weight."""

    @staticmethod
    def forward(
        ctx: Any,
        x_TD: Tensor,
        experts_Tk: Tensor,
        share_Tk: Tensor,
        weights: tuple[nn.Parameter, ...],
        alpha: float,
        limit: float,
    ) -> Tensor:
        up_blocks, up_scales, up_bias, down_blocks, down_scales, down_bias = weights
        expert_S, order_S, ends_E = _by_expert(experts_Tk, len(up_bias))
        token_S = order_S // experts_Tk.shape[1]
        gate_up = _products(x_TD[token_S], up_blocks, up_scales, ends_E, True) + up_bias[expert_S]
        act, _, _ = _gate(gate_up, alpha, limit, gradients=False)
        out_SD = _products(act, down_blocks, down_scales, ends_E, True) + down_bias[expert_S]
        # the Parameters themselves: under ZeRO-3 their data is gone by the backward pass, and gathered again for it
        ctx.weights, ctx.alpha, ctx.limit = weights, alpha, limit
        ctx.save_for_backward(experts_Tk, share_Tk, gate_up, order_S, expert_S, ends_E)
        return _back(out_SD * share_Tk.flatten()[order_S, None], order_S, experts_Tk.shape)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        experts_Tk, share_Tk, gate_up, order_S, expert_S, ends_E = ctx.saved_tensors
        up_blocks, up_scales, _, down_blocks, down_scales, down_bias = ctx.weights
        grad_SD = grads[0][order_S // experts_Tk.shape[1]]
        act, d_gate, d_up = _gate(gate_up, ctx.alpha, ctx.limit, gradients=True)
        d_act = _products(grad_SD, down_blocks, down_scales, ends_E, False)
        d_share = None
        if ctx.needs_input_grad[2]:
            # dL/dshare = grad . (act W + b) = (grad W^T) . act + grad . b: what is needed anyway instead of the second
            # product again
            exact = torch.promote_types(act.dtype, torch.float32)
            flat = (d_act.to(exact) * act.to(exact)).sum(1) + (grad_SD.to(exact) * down_bias[expert_S].to(exact)).sum(1)
            d_share = torch.empty_like(flat).index_copy_(0, order_S, flat).view(share_Tk.shape).to(share_Tk.dtype)
        d_act = d_act * share_Tk.flatten()[order_S, None]
        d_gate_up = torch.stack([d_act * d_gate, d_act * d_up], -1).flatten(1)
        d_x = _back(_products(d_gate_up, up_blocks, up_scales, ends_E, False), order_S, experts_Tk.shape)
        return d_x, None, d_share, None, None, None


class _FusedExperts(torch.autograd.Function):
    """The same in kernels: biases, activation and each token's sum are read and written once."""

    @staticmethod
    def forward(
        ctx: Any,
        x_TD: Tensor,
        experts_Tk: Tensor,
        share_Tk: Tensor,
        weights: tuple[nn.Parameter, ...],
        alpha: float,
        limit: float,
    ) -> Tensor:
        up_blocks, up_scales, up_bias, down_blocks, down_scales, down_bias = weights
        expert_S, order_S, ends_E = _by_expert(experts_Tk, len(up_bias))
        row_C, choices = torch.empty_like(order_S), experts_Tk.shape[1]
        row_C.scatter_(0, order_S, torch.arange(len(order_S), device=order_S.device))
        share_Tk = share_Tk.contiguous()
        gate_up = _products(x_TD[order_S // choices], up_blocks, up_scales, ends_E, True)
        act = expert_kernels.activated(gate_up, up_bias, expert_S, alpha, limit)
        out_SD = _products(act, down_blocks, down_scales, ends_E, True)
        ctx.weights, ctx.alpha, ctx.limit = weights, alpha, limit  # the Parameters themselves, as above
        ctx.save_for_backward(share_Tk, gate_up, order_S, row_C, expert_S, ends_E)
        return expert_kernels.combined(out_SD, row_C, choices, share_Tk, down_bias, experts_Tk.contiguous())

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        share_Tk, gate_up, order_S, row_C, expert_S, ends_E = ctx.saved_tensors
        up_blocks, up_scales, up_bias, down_blocks, down_scales, down_bias = ctx.weights
        grad_TD, choices = grads[0].contiguous(), share_Tk.shape[1]
        d_act = _products(grad_TD[order_S // choices], down_blocks, down_scales, ends_E, False)
        d_gate_up, d_share = expert_kernels.activated_backward(
            gate_up, up_bias, expert_S, d_act, grad_TD, share_Tk, down_bias, order_S, ctx.alpha, ctx.limit
        )
        d_x = expert_kernels.combined(_products(d_gate_up, up_blocks, up_scales, ends_E, False), row_C, choices)
        return d_x, None, d_share.to(share_Tk.dtype), None, None, None


def _by_expert(experts_Tk: Tensor, experts: int) -> tuple[Tensor, Tensor, Tensor]:
    """Choices sorted by expert: the expert and the choice of each row, and, int32, where each expert's rows end."""
    expert_S, order_S = experts_Tk.flatten().sort(stable=True)
    # torch.bincount would have the host wait for the GPU, in every layer
    every = torch.arange(experts, device=expert_S.device)
    return expert_S, order_S, torch.searchsorted(expert_S, every, right=True, out_int32=True)


def _gate(gate_up: Tensor, alpha: float, limit: float, gradients: bool) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """(up + 1) gate sigmoid(alpha gate), both clamped, and its derivatives by gate and up; they lie interleaved."""
    gate, up = gate_up[..., ::2].clamp(max=limit), gate_up[..., 1::2].clamp(-limit, limit)
    sigmoid = (gate * alpha).sigmoid()
    glu = gate * sigmoid
    act = (up + 1) * glu
    if not gradients:
        return act, None, None
    d_gate = (up + 1) * (sigmoid + alpha * glu * (1 - sigmoid)) * (gate_up[..., ::2] <= limit)
    return act, d_gate, glu * (gate_up[..., 1::2].abs() <= limit)


def _back(rows_SD: Tensor, order_S: Tensor, shape: torch.Size) -> Tensor:
    """Rows in the experts' order -> the tokens', the k of each summed in fp32: no atomics, the same bits each time."""
    tokens = torch.empty_like(rows_SD).index_copy_(0, order_S, rows_SD)
    return tokens.view(*shape, -1).sum(1, dtype=torch.promote_types(rows_SD.dtype, torch.float32)).to(rows_SD.dtype)


def _products(x_SI: Tensor, blocks: Tensor, scales: Tensor, ends_E: Tensor, forward: bool) -> Tensor:
    """Rows times their expert's weight (O, I) transposed, or times the weight itself on the way back."""
    _, rows, groups = scales.shape
    x_SI = x_SI.contiguous()
    if _grouped(x_SI):  # all experts of a layer at once
        wide = dequantise(blocks, scales, x_SI.dtype, out=_buffer(x_SI, scales.numel() * BLOCK), ends_E=ends_E)
        return torch.nn.functional.grouped_mm(x_SI, wide.transpose(1, 2) if forward else wide, offs=ends_E)
    out = x_SI.new_empty(len(x_SI), rows if forward else groups * BLOCK)
    begin = 0
    for e, end in enumerate(ends_E.tolist()):
        if end > begin:
            wide = dequantise(blocks[e], scales=scales[e], dtype=x_SI.dtype, out=_buffer(x_SI, rows * groups * BLOCK))
            torch.mm(x_SI[begin:end], wide.T if forward else wide, out=out[begin:end])
        begin = end
    return out


def _grouped(x_SI: Tensor) -> bool:
    """Whether the device multiplies rows of several experts in one call."""
    return x_SI.is_cuda and x_SI.dtype == torch.bfloat16


def _buffer(like: Tensor, numbers: int) -> Tensor:
    """The one memory on this device that weights are widened into, as long as the widest so far."""
    key = like.device, like.dtype
    if key not in _buffers or _buffers[key].numel() < numbers:
        _buffers[key] = torch.empty(numbers, dtype=like.dtype, device=like.device)
    return _buffers[key][:numbers]
