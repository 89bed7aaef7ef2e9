"""Attention of packed rows against each sample alone, in fp64: values, gradients, windows by position, sinks, grouped heads."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from backbones import BackboneCard, FrozenRoot, build_backbone, share_prefix, shared_prefix
from engine.batching import Item, collate, pack
from engine.data import Sample

SIZES = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
FAMILIES = {
    "llama": {"model_type": "llama", **SIZES},
    "mistral": {"model_type": "mistral", **SIZES, "sliding_window": 4},
    "phi3": {"model_type": "phi3", **SIZES, "sliding_window": 4, "pad_token_id": 0},
    "qwen2": {"model_type": "qwen2", **SIZES, "use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1},
    "qwen3": {"model_type": "qwen3", **SIZES, "head_dim": 8},
    "gpt_oss": {"model_type": "gpt_oss", **SIZES, "head_dim": 8, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 4,
                "max_position_embeddings": 131072},
}  # fmt: skip
MARGIN = 1e-8  # of fp64, between the last expert chosen and the first that is not


def test_every_family_that_is_let_in_is_tested() -> None:
    assert set(FAMILIES) == set(shared_prefix.FAMILIES)


def alone(q, k, v, sinks, window, scale):
    """One sequence (T, H, d) by the definition."""
    groups = q.shape[1] // k.shape[1]
    k, v = (x.repeat_interleave(groups, 1) for x in (k, v))
    scores = torch.einsum("qhd,khd->hqk", q, k) * scale
    at = torch.arange(len(q))
    hidden = at[:, None] < at
    if window is not None:
        hidden |= at[:, None] - at >= window
    scores = scores.masked_fill(hidden, -torch.inf)
    if sinks is not None:
        scores = torch.cat([scores, sinks[:, None, None].expand(-1, len(q), 1)], -1)
    return torch.einsum("hqk,khd->qhd", scores.softmax(-1)[..., : len(q)], v)


@given(
    lengths=st.lists(st.integers(1, 23), min_size=1, max_size=7), prompts=st.integers(1, 4), length=st.integers(0, 9),
    window=st.sampled_from([None, 1, 2, 5, 9, 30]), heads=st.sampled_from([(4, 4), (4, 2), (3, 1)]), sink=st.sampled_from([None, 0.0, 6.0]),
    block=st.sampled_from([1, 4, 256]), seed=st.integers(0, 10**6),
)  # fmt: skip
@settings(max_examples=80, deadline=None)
def test_packed_attention_equals_each_sequence_alone(lengths, prompts, length, window, heads, sink, block, seed) -> None:
    g = torch.Generator().manual_seed(seed)
    slots = torch.randint(0, prompts, (len(lengths),), generator=g).tolist()
    prefix = share_prefix(lengths, slots, prompts, length)
    n, (h, kv) = prompts * length + sum(lengths), heads
    q, k, v = (torch.randn(n, m, 8, generator=g, dtype=torch.float64, requires_grad=True) for m in (h, kv, kv))
    sinks = None if sink is None else torch.randn(h, generator=g, dtype=torch.float64) + sink
    weights = torch.randn(n, h, 8, generator=g, dtype=torch.float64)
    expected, parts, start = [], [], prompts * length
    for slot in range(prompts):
        expected.append([torch.arange(slot * length, (slot + 1) * length)])
    for size, slot in zip(lengths, slots, strict=True):
        parts.append((expected[slot][0], torch.arange(start, start + size)))
        start += size
    outs = [alone(q[i[0]], k[i[0]], v[i[0]], sinks, window, 0.4) for i in expected]
    outs += [alone(q[torch.cat(i)], k[torch.cat(i)], v[torch.cat(i)], sinks, window, 0.4)[len(i[0]) :] for i in parts]
    wanted = torch.cat(outs)
    wanted_grads = torch.autograd.grad((wanted * weights).sum(), (q, k, v))
    before, shared_prefix.BLOCK = shared_prefix.BLOCK, block
    try:
        found = shared_prefix._Packed.apply(q, k, v, sinks, prefix, window, 0.4)
        found_grads = torch.autograd.grad((found * weights).sum(), (q, k, v))
    finally:
        shared_prefix.BLOCK = before
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    for a, b in zip(found_grads, wanted_grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("sink", [0.0, 12.0])
def test_fp32_with_large_sinks_stays_as_exact_as_fp64_by_the_definition(sink) -> None:
    g = torch.Generator().manual_seed(1)
    q, k, v = (torch.randn(40, m, 8, generator=g, requires_grad=True) for m in (4, 2, 2))
    sinks, weights = torch.full((4,), sink), torch.randn(40, 4, 8, generator=g)
    found = shared_prefix._Packed.apply(q, k, v, sinks, share_prefix([40], [0], 1, 0), 16, 0.4)
    found_grads = torch.autograd.grad((found * weights).sum(), (q, k, v))
    wide = [x.detach().double().requires_grad_() for x in (q, k, v)]
    wanted = alone(*wide, sinks.double(), 16, 0.4)
    for a, b in zip(found_grads, torch.autograd.grad((wanted * weights.double()).sum(), wide), strict=True):
        assert (a - b).norm() / b.norm() <= 3e-6


def model_of(family: str):
    model = build_backbone(BackboneCard(name=family, random=dict(FAMILIES[family]), seed=3, tokenizer="t", dtype="float32"), None, torch.float64)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("sinks"):
                parameter.copy_(torch.linspace(-1, 4, len(parameter)))
    return model


def filler(prompts, batch):
    return lambda tokens: torch.cat([prompts[batch.rows_K].flatten(0, 1), tokens])


def chosen_experts(model, run):
    """Expert choices of every layer's tokens, and the least margin by which one was chosen."""
    choices, margins = [], []

    def look(module, args, output):
        logits, _, index = output
        best = logits.topk(index.shape[-1] + 1).values
        margins.append((best[:, -2] - best[:, -1]).min().item())
        choices.append(index.sort(-1).values)

    handles = [m.register_forward_hook(look) for n, m in model.named_modules() if n.endswith("router")]
    try:
        out = run()
    finally:
        for handle in handles:
            handle.remove()
    return out, choices, min(margins, default=1.0)


@pytest.mark.parametrize("tasks", [1, 3, 21])
@pytest.mark.parametrize("family", FAMILIES)
def test_hidden_states_and_prompt_gradients_equal_the_plain_formulation(family, tasks, exact_norms) -> None:
    """Windows shorter than the prompt, sinks that matter, mixed tasks, unequal lengths, an empty context."""
    model, length = model_of(family), 6
    exact_norms(model)
    g = torch.Generator().manual_seed(tasks)
    draw = lambda n: torch.randint(3, 60, (n,), generator=g).tolist()  # noqa: E731
    items = [Item(b % tasks, Sample(draw(b * 5 % 17), draw(1 + b % 4)), 1.0) for b in range(max(7, tasks))]
    assert any(not i.sample.context_ids for i in items) and len({len(i.sample) for i in items}) > 4
    root, prompts = FrozenRoot(model), torch.randn(tasks, length, 16, generator=g, dtype=torch.float64, requires_grad=True)
    plain, packed = collate(items), pack(items, length)

    (states, _), plain_choice, margin = chosen_experts(model, lambda: root("answers", plain, prompts[plain.rows_B]))
    (hidden_ND, seen), packed_choice, _ = chosen_experts(model, lambda: root("packed", packed, filler(prompts, packed), lambda w, s, t: (w.shape, t)))
    if family == "gpt_oss":
        # the same experts first: routing is not continuous, and near a tie neither answer is wrong
        assert margin > MARGIN, "draw another seed: a token stands between two experts"
        for a, b in zip(plain_choice, packed_choice, strict=True):
            for k in range(tasks):  # the prompts' own tokens, in either order
                sample = plain.rows_B.tolist().index(k)
                slot = packed.rows_K.tolist().index(k)
                rows = a.view(len(items), -1, a.shape[-1])[sample, :length]
                assert rows.equal(b[slot * length : (slot + 1) * length])
    assert seen == ((64, 16), None)
    torch.testing.assert_close(hidden_ND, states.hidden_ND, rtol=1e-12, atol=1e-12)
    weights = torch.randn(hidden_ND.shape, generator=g, dtype=torch.float64)
    (wanted,) = torch.autograd.grad((states.hidden_ND * weights).sum(), prompts)
    (found,) = torch.autograd.grad((hidden_ND * weights).sum(), prompts)
    assert (found - wanted).norm() / wanted.norm() <= 1e-12


def test_recomputing_in_the_backward_pass_finds_the_packed_attention() -> None:
    model, items = model_of("gpt_oss"), [Item(0, Sample([4, 5, 6, 7], [8, 1]), 1.0), Item(1, Sample([9], [1]), 1.0)]
    batch, grads = pack(items, 3), []
    for recompute in (False, True):
        if recompute:
            model.gradient_checkpointing_enable({"use_reentrant": False})
            model.train()
        prompts = torch.randn(2, 3, 16, generator=torch.Generator().manual_seed(2), dtype=torch.float64, requires_grad=True)
        hidden_ND, _ = FrozenRoot(model)("packed", batch, filler(prompts, batch), lambda *_: None)
        hidden_ND.sum().backward()
        grads.append(prompts.grad)
    assert torch.equal(*grads)
