"""Attention of a packed row, exact: a sample's queries see its prompt and itself, causally, windows counted by
position.

Registered with transformers as ``shared_prefix``: it serves every family that attends through AttentionInterface. The
keys of a sample are gathered as [prompt ; own], so that the index of a key is its position, and a window or the causal
border is a matter of indices. Queries go block by block, each to the keys it can see at all: memory is O(T x block), or
O(T x window). CUDA's flash attention takes sequences of any length: there, layers without a window need no keys
gathered (``in_parts``), and others one call (``gathered``).

gpt-oss's sink is one more, constant logit s per head in the softmax's denominator. After any flash forward (O, lse),
O' = O sigmoid(lse - s) and lse' = logaddexp(lse, s); the stock flash backward with (O', lse') gives the exact dQ, dK,
dV, since it needs no more than P = exp(S - lse') and the row sums of dO * O'.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from backbones.attention.decoding import Slots
from backbones.attention.gathered import GatheredAttention
from backbones.attention.in_parts import AttentionInParts
from backbones.attention.packing import Bucket, SharedPrefix

NAME = "shared_prefix"
# families (model_type) whose packed hidden states and gradients are tested against the plain formulation
PACKED_FAMILIES = ("gpt_oss", "llama", "mistral", "phi3", "qwen2", "qwen3")
BLOCK = 256  # queries of a sequence that go through attention at once
FLASH_DTYPES = (torch.float16, torch.bfloat16)  # what CUDA's flash attention computes in

_cpu_forward = partial(torch.ops.aten._scaled_dot_product_flash_attention_for_cpu, dropout_p=0.0, is_causal=False)
_cpu_backward = partial(
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward, dropout_p=0.0, is_causal=False
)


def shared_prefix_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    s_aux: Tensor | None = None,
    prefix: SharedPrefix | None = None,
    slots: Slots | None = None,
    **further: Any,
) -> tuple[Tensor, None]:
    """transformers' attention function: query (1, H, S, d), key and value (1, H or fewer, S, d) -> (1, S, H, d), no
    weights.

    Args:
        sliding_window: a query at position p sees positions above p - window. s_aux: sinks (H,). prefix: where the
            sequences lie. slots: keep their keys and values; without ``prefix``, one more token each of the sequences
                there.

    Raises:
        RuntimeError: the family asks for what this attention does not know.
    """
    asked = [name for name in ("softcap", "position_bias") if further.get(name) is not None]
    if (prefix is None and slots is None) or attention_mask is not None or dropout or asked:
        raise RuntimeError(
            f"{type(module).__name__} needs what packed rows do not support: {', '.join(asked) or 'a mask or dropout'}"
        )
    # squeeze, for the backward pass of an index writes zeros everywhere else
    q, k, v = (x.squeeze(0).transpose(0, 1) for x in (query, key, value))
    layer: Any = module.layer_idx
    if prefix is None:
        assert slots is not None
        return slots.attend(layer, q_NHd=q, k_NGd=k, v_NGd=v, sinks=s_aux, window=sliding_window, scale=scaling)[
            None
        ], None
    if slots is not None:
        slots.keep(layer, k, v)
    return packed_attention(q, k, v, sinks=s_aux, prefix=prefix, window=sliding_window, scale=scaling)[None], None


AttentionInterface.register(NAME, shared_prefix_attention)


def packed_attention(
    q: Tensor, k: Tensor, v: Tensor, sinks: Tensor | None, prefix: SharedPrefix, window: int | None, scale: float
) -> Tensor:
    """q (S, H, d), k and v (S, G, d) with H a multiple of G -> (S, H, d), in the fastest of three ways that give
    the same.
    """
    if window is not None and window >= prefix.longest:
        window = None  # wide enough for every token to see all before it
    if _flash_on_cuda(q):
        if window is None and prefix.segments is not None:
            return AttentionInParts.apply(q, k, v, sinks, prefix, scale)  # type: ignore[no-any-return, no-untyped-call]
        apply: Any = GatheredAttention.apply
        out: Tensor = apply(q, k, v, sinks, prefix, window, scale)
        return out
    return _Packed.apply(q, k, v, sinks, prefix, window, scale)  # type: ignore[no-any-return, no-untyped-call]


class _Packed(torch.autograd.Function):
    """q (S, H, d), k and v (S, G, d) with H a multiple of G -> (S, H, d)."""

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        sinks: Tensor | None,
        prefix: SharedPrefix,
        window: int | None,
        scale: float,
    ) -> Tensor:
        outs, lses = [], []
        for bucket in prefix.buckets:
            out, lse = _attend(*_gather(q, k, v, bucket, prefix), window, scale)
            if sinks is not None:
                sink_H1 = sinks.to(lse.dtype)[:, None]
                out = out * (lse - sink_H1).sigmoid()[..., None].to(out.dtype)
                lse = torch.logaddexp(lse, sink_H1)
            outs.append(out)
            lses.append(lse)
        ctx.save_for_backward(q, k, v, *outs, *lses)
        ctx.prefix, ctx.window, ctx.scale = prefix, window, scale
        return _to_row(outs, prefix)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, *saved = ctx.saved_tensors
        prefix, n = ctx.prefix, len(ctx.prefix.buckets)
        own: list[list[Tensor]] = [[], [], []]
        # a prompt's gradient is a sum over all of its task's samples: it is rounded once, at the end
        wide = torch.promote_types(k.dtype, torch.float32)
        shared = [x.new_zeros(prefix.n_prompts, prefix.length, *x.shape[1:], dtype=wide) for x in (k, v)]
        for bucket, out, lse in zip(prefix.buckets, saved[:n], saved[n:], strict=True):
            grad = _rows(grads[0], bucket.index_BR)
            if bucket.real_BR is not None:  # what comes after a sequence's end is nobody's
                grad = grad * bucket.real_BR[:, None, :, None]
            found = _attend_backward(grad, *_gather(q, k, v, bucket, prefix), out, lse, ctx.window, ctx.scale)
            for kept, x in zip(own, found, strict=True):
                kept.append(x[:, :, -bucket.index_BR.shape[1] :].to(q.dtype))
            if bucket.slot_B is not None:  # by index, not by a product with ones and zeros: a NaN stays its own task's
                for total, x in zip(shared, found[1:], strict=True):
                    total.index_add_(0, bucket.slot_B, x[:, :, : prefix.length].transpose(1, 2).to(wide))
        dq, dk, dv = (_to_row(parts, prefix) for parts in own)
        prompts = prefix.n_prompts * prefix.length
        for x, total in zip((dk, dv), shared, strict=True):
            x[:prompts] = total.flatten(0, 1) + x[:prompts]
        return dq, dk, dv, None, None, None, None


def _rows(x: Tensor, index: Tensor) -> Tensor:
    """(S, H, d) -> (B, H, R, d)."""
    return x.index_select(0, index.flatten()).unflatten(0, index.shape).transpose(1, 2)  # type: ignore[no-any-return]


def _to_row(parts: list[Tensor], prefix: SharedPrefix) -> Tensor:
    """Buckets' (B, H, R, d) -> (S, H, d)."""
    return torch.cat([x.transpose(1, 2).flatten(0, 1) for x in parts]).index_select(0, prefix.home_S)


def _gather(q: Tensor, k: Tensor, v: Tensor, bucket: Bucket, prefix: SharedPrefix) -> tuple[Tensor, Tensor, Tensor]:
    """Queries (B, H, R, d); keys and values (B, G, L + R, d), those of the prompt first, or (B, G, R, d) where
    there is none.
    """
    keys = bucket.index_BR
    if bucket.slot_B is not None:
        places = torch.arange(prefix.length, device=keys.device)
        keys = torch.cat([bucket.slot_B[:, None] * prefix.length + places, keys], 1)
    return _rows(q, bucket.index_BR), _rows(k, keys), _rows(v, keys)


def _blocks(q: Tensor, k: Tensor, window: int | None) -> Iterator[tuple[slice, slice, Tensor]]:
    """Which queries go through attention at once, which keys they can see, and the mask that is added to their
    scores.
    """
    first = k.shape[2] - q.shape[2]  # the position of the first query
    for begin in range(0, q.shape[2], BLOCK):
        end = min(begin + BLOCK, q.shape[2])
        lowest = 0
        if window is not None:
            lowest = max(0, first + begin - window + 1)
        query = torch.arange(first + begin, first + end, device=q.device)[:, None]
        key = torch.arange(lowest, first + end, device=q.device)
        hidden = key > query
        if window is not None:
            hidden |= key <= query - window
        yield (
            slice(begin, end),
            slice(lowest, first + end),
            torch.zeros(hidden.shape, dtype=q.dtype, device=q.device).masked_fill_(hidden, -torch.inf),
        )


def _flash_on_cuda(q: Tensor) -> bool:
    """Whether there is a flash attention that takes sequences of any length."""
    return q.is_cuda and q.dtype in FLASH_DTYPES


def _attend(q: Tensor, k: Tensor, v: Tensor, window: int | None, scale: float) -> tuple[Tensor, Tensor]:
    """Output (B, H, R, d) and log-sum-exp (B, H, R)."""
    forward: Callable[..., Any] = _plain_forward if q.is_cuda else _cpu_forward
    outs, lses = [], []
    for i, j, mask in _blocks(q, k, window):
        out, lse = forward(q[:, :, i], k[:, :, j], v[:, :, j], attn_mask=mask, scale=scale)
        outs.append(out)
        lses.append(lse)
    if len(outs) == 1:
        return outs[0], lses[0]
    return torch.cat(outs, 2), torch.cat(lses, 2)


def _attend_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, window: int | None, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, and of k and v: these in fp32 or wider where they are a sum over blocks."""
    backward: Callable[..., Any] = _plain_backward if q.is_cuda else _cpu_backward
    blocks = list(_blocks(q, k, window))
    if len(blocks) == 1:
        _, j, mask = blocks[0]
        if j == slice(0, k.shape[2]):  # nothing to sum
            return backward(grad, q, k, v, out, lse, attn_mask=mask, scale=scale)  # type: ignore[no-any-return]
    wide = torch.promote_types(k.dtype, torch.float32)
    dq, dk, dv = [], torch.zeros_like(k, dtype=wide), torch.zeros_like(v, dtype=wide)
    for i, j, mask in blocks:
        grad_i, q_i, out_i, lse_i = (x[:, :, i] for x in (grad, q, out, lse))
        dq_i, dk_j, dv_j = backward(grad_i, q_i, k[:, :, j], v[:, :, j], out_i, lse_i, attn_mask=mask, scale=scale)
        dq.append(dq_i)
        dk[:, :, j] += dk_j
        dv[:, :, j] += dv_j
    return torch.cat(dq, 2), dk, dv


def _plain_forward(q: Tensor, k: Tensor, v: Tensor, *, attn_mask: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """What CPU's flash attention gives, by matrix products: for fp32 and fp64 on CUDA, which flash attention does not
    know.

    A head of k and v serves the H / G heads of q in its group: q is (B, G H/G, R, d), k and v are (B, G, T, d), the
    mask is (R, T).
    """
    heads, (groups, keys) = q.shape[1], k.shape[1:3]
    scores = _by_group(q, groups) @ k.transpose(2, 3) * scale
    scores = scores.view(len(q), heads, -1, keys) + attn_mask
    lse = scores.logsumexp(-1)
    weights = (scores - lse[..., None]).exp()
    return (_by_group(weights, groups) @ v).view_as(q), lse


def _plain_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, *, attn_mask: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Of ``_plain_forward``: gradients of q, k and v. Sinks are in ``out`` and ``lse``, as flash attention's
    backward takes them.
    """
    heads, (groups, keys) = q.shape[1], k.shape[1:3]
    q_g, grad_g = _by_group(q, groups), _by_group(grad, groups)
    scores = (q_g @ k.transpose(2, 3) * scale).view(len(q), heads, -1, keys) + attn_mask
    weights = (scores - lse[..., None]).exp()
    d_weights = (grad_g @ v.transpose(2, 3)).view_as(weights)
    d_scores = weights * (d_weights - (grad * out).sum(-1, keepdim=True)) * scale
    weights_g, d_scores_g = _by_group(weights, groups), _by_group(d_scores, groups)
    return (d_scores_g @ k).view_as(q), d_scores_g.transpose(2, 3) @ q_g, weights_g.transpose(2, 3) @ grad_g


def _by_group(x: Tensor, groups: int) -> Tensor:
    """(B, H, R, …) -> (B, G, H/G R, …)."""
    return x.unflatten(1, (groups, -1)).flatten(2, 3)  # type: ignore[no-any-return]
