"""Attention of a packed row with a window, or whose samples lie in any order, in one call of a flash attention that
takes sequences of any length.

Queries stay where they lie. Keys and values are gathered as [prompts | end of the prompt, sample | end of the prompt,
sample | ...]: of its prompt a sample gets what its window reaches. So an index of a key is its position, up to a
constant, and window and causal border are the kernel's own. In the backward pass one launch takes each key's gradient
back to its place; a prompt's is a sum over all its samples, in fp32, rounded once, in a fixed order.
"""

from typing import Any

import torch
from torch import Tensor

from backbones.attention import collect_kernel, in_parts
from backbones.attention.packing import GatheredKeys, SharedPrefix


class GatheredAttention(torch.autograd.Function):
    """q (S, H, d), k and v (S, G, d) with H a multiple of G, fp16 or bf16 on CUDA -> (S, H, d). window: None, or as
    transformers counts it.
    """

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
        keys = prefix.gathered(window)
        out, lse, *_ = in_parts._forward(
            q, *_laid_out(k, v, keys), *_lengths(keys), 0.0, True, False, scale=scale, **_reach(window)
        )
        if sinks is not None:
            out, lse = in_parts.merged(out, lse, None, sinks, 0)
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.keys, ctx.prefix, ctx.window, ctx.scale = keys, prefix, window, scale
        return out  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, out, lse = ctx.saved_tensors
        seed = torch.zeros(2, dtype=torch.uint64, device=q.device)  # of a dropout that there is not
        dq, dk, dv = in_parts._backward(
            grads[0].contiguous(),
            q,
            *_laid_out(k, v, ctx.keys),
            out,
            lse,
            *_lengths(ctx.keys),
            0.0,
            True,
            seed,
            seed[0],
            scale=ctx.scale,
            **_reach(ctx.window),
        )
        if ctx.keys.index_G is not None:
            dk, dv = collected(dk, dv, ctx.keys, ctx.prefix)
        return dq, dk, dv, None, None, None, None


def _laid_out(k: Tensor, v: Tensor, keys: GatheredKeys) -> tuple[Tensor, Tensor]:
    if keys.index_G is None:
        return k, v
    return k.index_select(0, keys.index_G), v.index_select(0, keys.index_G)


def _lengths(keys: GatheredKeys) -> tuple[Tensor, Tensor, int, int]:
    return keys.queries, keys.keys, keys.longest_queries, keys.longest_keys


def _reach(window: int | None) -> dict[str, int]:
    if window is None:
        return {}
    return {"window_size_left": window - 1, "window_size_right": 0}


def collected(dk_GHd: Tensor, dv_GHd: Tensor, keys: GatheredKeys, prefix: SharedPrefix) -> tuple[Tensor, Tensor]:
    """Gradients of gathered keys and values -> of the row's, (S, G, d)."""
    if collect_kernel.available(dk_GHd):
        return collect_kernel.collected(dk_GHd, dv_GHd, keys, prefix)
    wide = torch.promote_types(dk_GHd.dtype, torch.float32)
    found = []
    for gathered in (dk_GHd.to(wide), dv_GHd.to(wide)):
        row = gathered[keys.home_S]
        shared = row[: prefix.n_prompts * prefix.length].unflatten(0, (prefix.n_prompts, prefix.length))
        begins = keys.begins.tolist()
        for slot, (first, last) in enumerate(zip(begins, begins[1:], strict=False)):
            places = keys.first_B[first:last, None] + torch.arange(keys.reach, device=row.device)
            shared[slot, prefix.length - keys.reach :] += gathered[places].sum(0)
        found.append(row.to(dk_GHd.dtype))
    return found[0], found[1]
