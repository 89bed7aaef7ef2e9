"""Attention of a packed row, forward and backward: as it is done on this device, and as a padded trainer does it.

    python -m benchmarks.attention --output benchmarks/results/attention_h100.json

Padded: PyTorch's scaled_dot_product_attention over [prompt ; sample] of each sample, all as wide as the longest,
causal. It knows no sinks and no windows, so those sizes lack it. On a GPU rows go in parts, or with gathered keys in
one call; on a CPU in padded calls. Operations: 4 d a head and a pair of query and key that causality and window let see
each other, in the packed row, and 2.5 times as many in the backward pass.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from backbones import SharedPrefix, share_prefix
from backbones.attention import AttentionInParts, GatheredAttention, shared_prefix
from benchmarks.common.timing import alternate, run


@dataclass(frozen=True)
class Size:
    """heads, groups: of queries, and of keys and values. lengths: samples drawn between them. prompt: tokens of
    each of ``tasks`` prompts.
    """

    heads: int
    groups: int
    width: int
    tasks: int
    samples: int
    lengths: tuple[int, int]
    sink: bool = False
    window: int | None = None
    prompt: int = 100


LLAMA, GPT_OSS = (32, 8, 128), (64, 8, 64)
SIZES = {
    "Llama 8B, short": Size(*LLAMA, 10, 150, (50, 150)),
    "gpt-oss 20B, short, sinks": Size(*GPT_OSS, 10, 150, (50, 150), True),
    "gpt-oss 20B, short, sinks, window": Size(*GPT_OSS, 10, 150, (50, 150), True, 128),
    "Llama 8B, notes": Size(*LLAMA, 4, 8, (1500, 2500)),
    "gpt-oss 20B, notes, sinks, window": Size(*GPT_OSS, 4, 8, (1500, 2500), True, 128),
}
SMALL = {"pocket, short": Size(4, 2, 16, 4, 32, (30, 90)), "pocket, notes": Size(4, 2, 16, 4, 8, (700, 1300))}


def padded(q: Tensor, k: Tensor, v: Tensor, prefix: SharedPrefix, scale: float) -> Callable[[], object]:
    """Forward and backward of a batch with its prompt before every sample."""
    prompts, widest = prefix.n_prompts * prefix.length, prefix.longest
    at = torch.zeros(len(prefix.lengths), widest, dtype=torch.long)
    begin = prompts
    for b, (slot, n) in enumerate(zip(prefix.slots, prefix.lengths, strict=True)):
        own = [*range(slot * prefix.length, (slot + 1) * prefix.length), *range(begin, begin + n)]
        at[b, : len(own)] = torch.tensor(own)
        begin += n
    batch = [x.detach()[at.to(x.device)].transpose(1, 2).contiguous().requires_grad_() for x in (q, k, v)]
    query, key, value = batch
    grad = torch.ones_like(query)

    def call() -> None:
        out = torch.nn.functional.scaled_dot_product_attention(
            query, key, value, is_causal=True, scale=scale, enable_gqa=True
        )
        torch.autograd.grad(out, batch, grad)

    return call


def _pairs(before: int, tokens: int, window: int | None) -> int:
    """Of each token with itself, those before it, and ``before`` that stand in front, as far back as the window
    reaches.
    """
    return sum(min(before + i + 1, window or before + i + 1) for i in range(tokens))


def measure(name: str, device: torch.device, repeats: int) -> dict[str, Any]:
    size = (SIZES | SMALL)[name]
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    g = torch.Generator().manual_seed(0)
    lengths = torch.randint(*size.lengths, (size.samples,), generator=g).tolist()
    prefix = share_prefix(
        lengths,
        slots=sorted(b % size.tasks for b in range(size.samples)),
        n_prompts=size.tasks,
        length=size.prompt,
        device=device,
    )
    tokens, scale = size.tasks * size.prompt + sum(lengths), size.width**-0.5

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g).to(device, dtype)

    q = draw(tokens, size.heads, size.width).requires_grad_()
    k, v = (draw(tokens, size.groups, size.width).requires_grad_() for _ in range(2))
    sinks = draw(size.heads) if size.sink else None
    grad = torch.ones_like(q)

    def both_ways(attend: Callable[[], Tensor]) -> Callable[[], object]:
        return lambda: torch.autograd.grad(attend(), (q, k, v), grad)

    window = size.window
    calls: dict[str, Callable[[], object]] = {}
    if device.type == "cpu":
        calls["gathered"] = both_ways(lambda: shared_prefix._Packed.apply(q, k, v, sinks, prefix, window, scale))
    else:
        calls["gathered, one call"] = both_ways(lambda: GatheredAttention.apply(q, k, v, sinks, prefix, window, scale))
        if window is None:
            calls["in parts"] = both_ways(lambda: AttentionInParts.apply(q, k, v, sinks, prefix, scale))
    if sinks is None:
        calls["padded"] = padded(q, k, v, prefix, scale)
    seconds = alternate(calls, repeats, device)
    pairs = sum(_pairs(size.prompt, n, window) for n in lengths) + size.tasks * _pairs(0, size.prompt, window)
    return {"size": name, "seconds": seconds, "operations": 4 * size.width * size.heads * pairs * 3.5, "tokens": tokens}


if __name__ == "__main__":
    run(__doc__, measure, {"cuda": SIZES, "cpu": SMALL}, 10)
