"""Attention of a packed row without a window, in two calls of a flash attention that takes sequences of any length.

The first call is causal within each prompt and each sample, as they lie in the row. In the second the samples of a
prompt, end to end, see all of that prompt. The softmax over both sets of keys, and a sink s, follows from the outputs
and their log-sum-exps:

    lse = log(exp(lse_own) + exp(lse_prompt) + exp(s)),   O = O_own exp(lse_own - lse) + O_prompt exp(lse_prompt - lse)

Given (O, lse), the stock backward pass of each call gives its share of dQ, dK and dV: it needs no more than P = exp(S -
lse) and the row sums of dO * O. So nothing is gathered or padded, and a prompt's keys get their gradient, a sum over
all samples, from one kernel in fp32, rounded once. Cascade inference merges its parts alike (FlashInfer); here the
gradient passes through.
"""

from typing import Any

import torch
from torch import Tensor

from backbones.attention import merge_kernel
from backbones.attention.packing import Segments, SharedPrefix

_forward = torch.ops.aten._flash_attention_forward
_backward = torch.ops.aten._flash_attention_backward


class AttentionInParts(torch.autograd.Function):
    """q (S, H, d), k and v (S, G, d) with H a multiple of G, fp16 or bf16 on CUDA -> (S, H, d)."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, sinks: Tensor | None, prefix: SharedPrefix, scale: float
    ) -> Tensor:
        segments, first = _segments(prefix)
        own, lse, *_ = _forward(q, k, v, *_own(segments), 0.0, True, False, scale=scale)
        prompt = None
        if first:
            text = (q[first:], k[:first], v[:first])
            out, lse_text, *_ = _forward(*text, *_text(segments, prefix), 0.0, False, False, scale=scale)
            prompt = (out, lse_text)
        if first or sinks is not None:
            own, lse = merged(own, lse, prompt, sinks, first)
        ctx.save_for_backward(q, k, v, own, lse)
        ctx.prefix, ctx.scale = prefix, scale
        return own  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, out, lse = ctx.saved_tensors
        segments, first = _segments(ctx.prefix)
        grad = grads[0].contiguous()
        seed = torch.zeros(2, dtype=torch.uint64, device=q.device)  # of a dropout that there is not
        after = (0.0, True, seed, seed[0])
        dq, dk, dv = _backward(grad, q, k, v, out, lse, *_own(segments), *after, scale=ctx.scale)
        if first:
            text = (grad[first:], q[first:], k[:first], v[:first], out[first:], lse[:, first:].contiguous())
            after = (0.0, False, seed, seed[0])
            dq_text, dk_prompt, dv_prompt = _backward(*text, *_text(segments, ctx.prefix), *after, scale=ctx.scale)
            dq[first:] += dq_text
            dk[:first] += dk_prompt
            dv[:first] += dv_prompt
        return dq, dk, dv, None, None, None


def _segments(prefix: SharedPrefix) -> tuple[Segments, int]:
    """And the place of the first sample's first token."""
    assert prefix.segments is not None
    return prefix.segments, prefix.n_prompts * prefix.length


def _own(segments: Segments) -> tuple[Tensor, Tensor, int, int]:
    return segments.own, segments.own, segments.longest_own, segments.longest_own


def _text(segments: Segments, prefix: SharedPrefix) -> tuple[Tensor, Tensor, int, int]:
    return segments.text, segments.prompts, segments.longest_text, prefix.length


def merged(
    own_SHd: Tensor, lse_HS: Tensor, prompt: tuple[Tensor, Tensor] | None, sinks_H: Tensor | None, first: int
) -> tuple[Tensor, Tensor]:
    """Output and log-sum-exp over a token's own part, its prompt and its sink.

    Args:
        prompt: (T, H, d) and (H, T) of the tokens from ``first`` on; none: no token follows a prompt.
    """
    if merge_kernel.available(own_SHd):
        return merge_kernel.merged(own_SHd, lse_HS, prompt, sinks_H, first)
    total_HS = lse_HS.clone()
    if prompt is not None:
        total_HS[:, first:] = torch.logaddexp(lse_HS[:, first:], prompt[1])
    if sinks_H is not None:
        total_HS = torch.logaddexp(total_HS, sinks_H.to(total_HS.dtype)[:, None])
    wide_SHd = own_SHd.to(total_HS.dtype) * (lse_HS - total_HS).exp().T[..., None]
    if prompt is not None:
        wide_SHd[first:] += prompt[0].to(total_HS.dtype) * (prompt[1] - total_HS[:, first:]).exp().T[..., None]
    return wide_SHd.to(own_SHd.dtype), total_HS
