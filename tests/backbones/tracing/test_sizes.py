"""Sizes from a configuration alone, held against models that are really built and really run."""

import pytest
import torch

from backbones import BackboneCard, FrozenRoot, PackedBatch, build_backbone, parameter_count, share_prefix
from backbones.layers.frozen_linear import keep_no_inputs
from backbones.layers.fused import fuse
from backbones.tracing.sizes import measure_footprint

TINY = {
    "vocab_size": 99,
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
}
EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 16, "sliding_window": 32}
FAMILIES = {
    "llama": {},
    "mistral": {"sliding_window": None},
    "qwen2": {},
    "qwen3": {"head_dim": 16},
    "phi3": {},
    "gpt_oss": EXPERTS,
    "mxfp4": {**EXPERTS, "quantization_config": {"quant_method": "mxfp4"}},
    "tied": {"tie_word_embeddings": True},
}


def card_of(name: str, dtype: str) -> BackboneCard:
    kind = {"mxfp4": "gpt_oss", "tied": "llama"}.get(name, name)
    return BackboneCard(
        name=name, random={"model_type": kind, **TINY, **FAMILIES[name]}, tokenizer="unused", dtype=dtype, dummy=True
    )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", FAMILIES)
def test_weights_by_part(name, dtype):
    card = card_of(name, dtype)
    sizes, model = measure_footprint(card), build_backbone(card, None)
    assert sizes.weights == sum(p.numel() * p.element_size() for p in model.parameters()) == sum(sizes.tensors)
    assert (
        sizes.tensors[0] == sizes.embedding and sizes.sharded_tensors == sizes.tensors
    )  # seeded weights lie in no file
    assert sizes.numbers == parameter_count(model) and len(sizes.layers) == 2 and sizes.layers[0] == sizes.layers[1]
    assert sizes.embedding == 99 * 64 * sizes.itemsize and sizes.head == (0 if name == "tied" else sizes.embedding)
    assert sizes.layer_elements == sum(p.numel() for p in model.model.layers[0].parameters())


def saved_in_layers(model, lengths):
    """Bytes that the decoder layers keep of a packed row for its backward pass, each memory once, weights not
    counted; and the row's tokens.
    """
    length, total = 16, sum(lengths)
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    weights |= {b.untyped_storage().data_ptr() for b in model.buffers()}
    kept: dict[int, int] = {}

    def keep(t):
        kept[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        alive.append(t)
        return t

    alive: list[torch.Tensor] = []
    ids = torch.randint(1, 99, (total,))
    last = torch.tensor([length + total - 1])
    batch = PackedBatch(
        ids,
        last,
        ids[:1],
        torch.zeros(1, dtype=torch.long),
        torch.ones(1),
        torch.zeros(1, dtype=torch.long),
        share_prefix(lengths, slots=[0] * len(lengths), n_prompts=1, length=length),
    )
    prompt = torch.randn(length, 64, dtype=model.dtype, requires_grad=True)
    root = FrozenRoot(model)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        root.forward_packed(batch, lambda tokens: torch.cat([prompt, tokens]), lambda w, h, t: h)
    return sum(n for place, n in kept.items() if place not in weights), length + total


def saved_per_token(name, dtype, sharded=False, fused=False, lengths=(100, 100, 100)):
    """Bytes that one layer keeps of one token."""
    card, found = card_of(name, dtype), []
    depths = (
        (1, 2) if fused else (1, 3)
    )  # the difference is layers' alone: embeddings, the last norm and the head fall away
    for layers in depths:
        deeper = BackboneCard(**{**card.__dict__, "random": {**card.random, "num_hidden_layers": layers}})
        if name in ("gpt_oss", "mxfp4"):
            deeper.random["layer_types"] = ["full_attention"] * layers
        model = build_backbone(deeper, None)
        if sharded:
            keep_no_inputs(model, model.lm_head)
        if fused:
            fuse(model)
        bytes_, tokens = saved_in_layers(model, lengths)
        found.append(bytes_)
    return (found[1] - found[0]) / (depths[1] - depths[0]) / tokens


@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", FAMILIES)
def test_what_a_layer_keeps_of_a_token(name, dtype, sharded):
    assert measure_footprint(card_of(name, dtype)).saved_per_token == pytest.approx(
        saved_per_token(name, dtype, sharded), rel=0.05
    )


@pytest.mark.long
def test_what_a_fused_layer_keeps_of_a_token_in_the_interpreter(interpreted):
    code = (
        "from tests.backbones.tracing.test_sizes import FAMILIES, card_of, saved_per_token, measure_footprint\n"
        "for name, dtype in (('llama', 'bfloat16'), ('qwen3', 'float32'), ('mxfp4', 'bfloat16')):\n"
        "    found = saved_per_token(name, dtype, fused=True, lengths=(4, 4))\n"
        "    print(name, dtype, measure_footprint(card_of(name, dtype)).saved_fused, found, flush=True)"
    )
    lines = [line.split() for line in interpreted(code).splitlines()]
    assert len(lines) == 3
    for name, dtype, predicted, found in lines:
        assert float(predicted) == pytest.approx(float(found), rel=0.05), (name, dtype)
