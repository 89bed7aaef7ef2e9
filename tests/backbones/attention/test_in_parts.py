"""Attention in parts against gathered keys, in fp64: what it makes of a flash attention's answers. The kernels
themselves: tests/gpu.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings, strategies as st
from torch import Tensor

from backbones import BackboneCard, FrozenRoot, SharedPrefix, build_backbone, share_prefix
from backbones.attention import in_parts, shared_prefix
from backbones.attention.in_parts import AttentionInParts
from backbones.attention.packing import to_device
from engine.data.packing import pack
from engine.data.sample import Sample

SIZES = {
    "vocab_size": 64,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
OSS = {
    "head_dim": 8,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "sliding_window": 4,
    "max_position_embeddings": 131072,
}
BF16 = 2.5e-3  # relative error of a prompt's gradient: two parts of it are rounded, and their sum


def stretches(ends_q: Tensor, ends_k: Tensor) -> list[tuple[slice, slice]]:
    q, k = ends_q.tolist(), ends_k.tolist()
    return [(slice(*a), slice(*b)) for a, b in zip(zip(q, q[1:]), zip(k, k[1:]), strict=True)]


def scores_of(q: Tensor, k: Tensor, causal: bool, scale: float, left: int = -1) -> Tensor:
    """The last query sees the last key; left: so many before its own place, all where negative."""
    scores = torch.einsum("qhd,khd->hqk", q, k.repeat_interleave(q.shape[1] // k.shape[1], 1)) * scale
    back = torch.arange(len(q))[:, None] + len(k) - len(q) - torch.arange(len(k))
    hidden = torch.zeros_like(back, dtype=torch.bool)
    if causal:
        hidden |= back < 0
    if left >= 0:
        hidden |= back > left
    return scores.masked_fill(hidden, -torch.inf)


def checked(
    q: Tensor, k: Tensor, v: Tensor, ends_q: Tensor, ends_k: Tensor, most_q: int, most_k: int
) -> list[tuple[slice, slice]]:
    """What torch.ops.aten._flash_attention_forward and _backward ask of their arguments."""
    assert all(x.stride(-1) == 1 for x in (q, k, v)) and ends_q.dtype == ends_k.dtype == torch.int32
    found = stretches(ends_q, ends_k)
    assert ends_q[-1] == len(q) and ends_k[-1] == len(k) == len(v)
    assert most_q == max(a.stop - a.start for a, _ in found) and most_k == max(b.stop - b.start for _, b in found)
    assert all(a.stop > a.start and b.stop > b.start for a, b in found), (
        "a kernel leaves what nobody attends to unwritten"
    )
    return found


def flash_forward(
    q, k, v, ends_q, ends_k, most_q, most_k, dropout, causal, debug, *, scale, window_size_left=-1, window_size_right=0
) -> tuple[Any, ...]:
    """torch's operator, computed in fp64 and rounded once. The output lies as the queries do."""
    out, lse = torch.empty_like(q), torch.empty(q.shape[1], len(q), dtype=torch.float64)
    for a, b in checked(q, k, v, ends_q, ends_k, most_q, most_k):
        scores = scores_of(q[a].double(), k[b].double(), causal, scale, window_size_left)
        lse[:, a] = scores.logsumexp(-1)
        values = v[b].double().repeat_interleave(q.shape[1] // k.shape[1], 1)
        out[a] = torch.einsum("hqk,khd->qhd", scores.softmax(-1), values).to(q.dtype)
    assert not dropout and not debug and window_size_right == 0
    return out, lse.to(torch.promote_types(q.dtype, torch.float32)), None, None, None


def flash_backward(
    grad,
    q,
    k,
    v,
    out,
    lse,
    ends_q,
    ends_k,
    most_q,
    most_k,
    dropout,
    causal,
    seed,
    offset,
    *,
    scale,
    window_size_left=-1,
    window_size_right=0,
) -> tuple[Tensor, ...]:
    assert window_size_right == 0 and grad.is_contiguous() and lse.is_contiguous() and not dropout
    dq, dk, dv = (torch.empty_like(x) for x in (q, k, v))
    groups = (k.shape[1], q.shape[1] // k.shape[1])
    for a, b in checked(q, k, v, ends_q, ends_k, most_q, most_k):
        g, wide_q, wide_k = grad[a].double(), q[a].double(), k[b].double()
        values = v[b].double().repeat_interleave(groups[1], 1)
        p = (scores_of(wide_q, wide_k, causal, scale, window_size_left) - lse[:, a, None]).exp()
        rows = (g * out[a].double()).sum(-1).T[..., None]
        ds = p * (torch.einsum("qhd,khd->hqk", g, values) - rows) * scale
        dq[a] = torch.einsum("hqk,khd->qhd", ds, wide_k.repeat_interleave(groups[1], 1)).to(q.dtype)
        dk[b] = torch.einsum("hqk,qhd->khd", ds, wide_q).unflatten(1, groups).sum(2).to(k.dtype)
        dv[b] = torch.einsum("hqk,qhd->khd", p, g).unflatten(1, groups).sum(2).to(v.dtype)
    return dq, dk, dv


@pytest.fixture
def flash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(in_parts, "_forward", flash_forward)
    monkeypatch.setattr(in_parts, "_backward", flash_backward)
    monkeypatch.setattr(shared_prefix, "_flash_on_cuda", lambda q: True)


def both(
    q: Tensor, k: Tensor, v: Tensor, sinks: Tensor | None, prefix: SharedPrefix, weights: Tensor
) -> list[list[Tensor]]:
    """Output and gradients by each way."""
    calls = (
        lambda: AttentionInParts.apply(q, k, v, sinks, prefix, 0.4),
        lambda: shared_prefix._Packed.apply(q, k, v, sinks, prefix, None, 0.4),
    )
    outs = [call() for call in calls]
    return [[out, *torch.autograd.grad((out * weights).sum(), (q, k, v))] for out in outs]


@given(
    of_prompt=st.lists(st.lists(st.integers(1, 23), min_size=1, max_size=4), min_size=1, max_size=5),
    length=st.integers(0, 9),
    heads=st.sampled_from([(4, 4), (4, 2), (3, 1)]),
    sink=st.sampled_from([None, 0.0, 6.0]),
    seed=st.integers(0, 10**6),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_it_equals_gathered_keys(flash, of_prompt, length, heads, sink, seed) -> None:
    g = torch.Generator().manual_seed(seed)
    lengths = [n for own in of_prompt for n in own]
    slots = [k for k, own in enumerate(of_prompt) for _ in own]
    prefix = share_prefix(lengths, slots, n_prompts=len(of_prompt), length=length)
    n, (h, kv) = len(of_prompt) * length + sum(lengths), heads
    # as transformers hands them over: heads before tokens
    q, k, v = (
        torch.randn(m, n, 8, generator=g, dtype=torch.float64).transpose(0, 1).requires_grad_() for m in (h, kv, kv)
    )
    sinks = None if sink is None else torch.randn(h, generator=g, dtype=torch.float64) + sink
    weights = torch.randn(n, h, 8, generator=g, dtype=torch.float64)
    found, wanted = both(q, k, v, sinks, prefix, weights)
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_twenty_one_prompts(flash) -> None:
    g = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, 30, (63,), generator=g).tolist()
    prefix, n = share_prefix(lengths, slots=[b // 3 for b in range(63)], n_prompts=21, length=5), 21 * 5 + sum(lengths)
    q, k, v = (torch.randn(n, m, 8, generator=g, dtype=torch.float64, requires_grad=True) for m in (4, 2, 2))
    found, wanted = both(q, k, v, None, prefix, torch.randn(n, 4, 8, generator=g, dtype=torch.float64))
    for a, b in zip(found, wanted, strict=True):
        assert (a - b).norm() / b.norm() <= 1e-12


@pytest.mark.parametrize("window, calls", [(None, 2), (9, 2), (100, 2), (8, 1), (1, 1)])
def test_a_window_that_hides_nothing_is_none(
    flash, window: int | None, calls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In parts there are two calls, with gathered keys one."""
    made = []
    monkeypatch.setattr(in_parts, "_forward", lambda *a, **k: (made.append(1), flash_forward(*a, **k))[1])
    prefix = share_prefix([4, 2, 3], slots=[0, 0, 1], n_prompts=2, length=5)
    assert prefix.longest == 9
    q, k, v = (torch.randn(19, 2, 8, dtype=torch.float64) for _ in range(3))
    found = shared_prefix.packed_attention(q, k, v, sinks=None, prefix=prefix, window=window, scale=0.4)
    torch.testing.assert_close(
        found, shared_prefix._Packed.apply(q, k, v, None, prefix, window, 0.4), rtol=1e-12, atol=1e-12
    )
    assert len(made) == calls


@pytest.mark.parametrize(
    "config",
    [{"model_type": "llama", **SIZES}, {"model_type": "gpt_oss", **SIZES, **OSS}],
    ids=lambda c: c["model_type"],
)
def test_a_model_gives_the_same_either_way(config: dict[str, Any], request: pytest.FixtureRequest) -> None:
    """gpt-oss alternates: its layers with a window gather, the others attend in parts, with sinks."""
    model = build_backbone(
        BackboneCard(name="t", random=config, seed=3, tokenizer="t", dtype="float32"), None, torch.float64
    )
    samples = [
        Sample([4, 5, 6, 7], [8, 1], row=0),
        Sample([], [9, 1], row=0),
        Sample([9], [1], row=1),
    ]
    batch, grads = pack(samples, 3), []
    assert batch.prefix.segments is not None
    for way in ("gathered", "in parts"):
        if way == "in parts":
            request.getfixturevalue("flash")
        prompts = torch.randn(
            2, 3, 16, generator=torch.Generator().manual_seed(2), dtype=torch.float64, requires_grad=True
        )
        rows = prompts[batch.rows_K].flatten(0, 1)
        hidden_ND, _ = FrozenRoot(model).forward_packed(
            batch, lambda tokens, rows=rows: torch.cat([rows, tokens]), lambda *_: None
        )
        hidden_ND.square().sum().backward()
        grads.append(prompts.grad)
    assert (grads[1] - grads[0]).norm() / grads[0].norm() <= 1e-12


def test_the_gradient_of_a_prompt_that_150_samples_share_in_bf16(flash) -> None:
    """With kernels that round once. Gathered keys, rounded a sample at a time, give 3.2e-3
    (tests/backbones/attention/test_shared_prefix.py).
    """
    g = torch.Generator().manual_seed(150)
    lengths, length = torch.randint(20, 60, (150,), generator=g).tolist(), 100
    n, prefix = length + sum(lengths), share_prefix(lengths, slots=[0] * 150, n_prompts=1, length=length)
    wide = [torch.randn(n, 4, 64, generator=g).bfloat16().double().requires_grad_() for _ in range(3)]
    weights = torch.randn(n, 4, 64, generator=g).bfloat16()
    wanted = torch.autograd.grad(
        (shared_prefix._Packed.apply(*wide, None, prefix, None, 0.125) * weights.double()).sum(), wide
    )
    narrow = [x.detach().bfloat16().requires_grad_() for x in wide]
    found = torch.autograd.grad((AttentionInParts.apply(*narrow, None, prefix, 0.125) * weights).sum(), narrow)
    for a, b in zip(found[1:], wanted[1:], strict=True):
        assert (a[:length].double() - b[:length]).norm() / b[:length].norm() <= BF16


def test_a_tensor_for_the_cpu_is_not_pinned() -> None:
    tensor = torch.arange(3)
    assert to_device(tensor, "cpu") is tensor


MERGED = """
import torch
from backbones.attention import merge_kernel
from backbones.attention.in_parts import merged
g = torch.Generator().manual_seed(0)
assert merge_kernel.available(torch.zeros(1)) and not merge_kernel.available(torch.zeros(1, dtype=torch.float64))
for tokens, heads, width, first, dtype in (
    (37, 3, 8, 12, torch.float32),
    (16, 2, 80, 0, torch.bfloat16),
    (5, 1, 64, 4, torch.float16),
):
    for sink in (False, True):
        for follows in (True, False) if sink else (True,):
            own = torch.randn(heads, tokens, width, generator=g).to(dtype).transpose(0, 1)  # as transformers lays it
            lse = 3 * torch.randn(heads, tokens, generator=g)
            prompt_out = torch.randn(tokens - first, heads, width, generator=g).to(dtype)
            prompt = prompt_out, 3 * torch.randn(heads, tokens - first, generator=g)
            sinks = torch.randn(heads, generator=g).to(dtype) if sink else None
            asked = (own, lse, prompt if follows else None, sinks, first if follows else 0)
            found = merged(*asked)
            merge_kernel.available, kept = (lambda _: False), merge_kernel.available
            wanted = merged(*asked)
            merge_kernel.available = kept
            assert found[0].is_contiguous() and found[0].dtype == dtype and found[1].dtype == torch.float32
            torch.testing.assert_close(found[1], wanted[1], rtol=1e-6, atol=1e-6)
            torch.testing.assert_close(found[0], wanted[0], rtol=1e-2 if dtype != torch.float32 else 1e-5, atol=1e-5)
print("merged")
"""


def test_the_kernel_that_merges_parts_in_the_interpreter(interpreted: Callable[..., str]) -> None:
    assert interpreted(MERGED) == "merged\n"
