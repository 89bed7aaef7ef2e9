"""Layers that are computed again in the backward pass give what layers that are kept give, whatever drops out in
training mode.
"""

from typing import Any

import pytest
import torch
from torch import nn

from backbones import BackboneCard, BackboneError, FrozenRoot, build_backbone
from backbones.loading.recomputation import recompute_first
from engine.data.packing import collate, pack
from engine.data.sample import Sample

LAYERS, LENGTH, HIDDEN = 3, 3, 16
SIZES = {"vocab_size": 64, "hidden_size": HIDDEN, "num_hidden_layers": LAYERS, "num_attention_heads": 4}
GROUPED = {"num_key_value_heads": 2, "intermediate_size": 24, "attention_dropout": 0.5}
EXPERTS = {"head_dim": 8, "num_local_experts": 4, "num_experts_per_tok": 2, "max_position_embeddings": 131072}
BIOGPT = {
    "intermediate_size": 24,
    "hidden_dropout_prob": 0.5,
    "attention_probs_dropout_prob": 0.5,
    "activation_dropout": 0.5,
    "layerdrop": 0.5,
}
FAMILIES: dict[str, tuple[dict[str, Any], str]] = {
    "llama": (GROUPED, "packed"),
    "gpt_oss": (GROUPED | EXPERTS, "packed"),
    "biogpt": (BIOGPT, "plain"),
}


def built(family: str) -> Any:
    config = {"model_type": family, **SIZES, **FAMILIES[family][0]}
    card = BackboneCard(name=family, random=config, seed=3, tokenizer="t", dtype="float32")
    return build_backbone(card, None, torch.float64)


def gradient(model: Any, how: str) -> torch.Tensor:
    samples = [Sample([4, 5, 6, 7], [8, 1], row=0), Sample([9], [1], row=1)]
    generator = torch.Generator().manual_seed(2)
    prompts = torch.randn(2, LENGTH, HIDDEN, generator=generator, dtype=torch.float64, requires_grad=True)
    root = FrozenRoot(model)
    if how == "packed":
        batch = pack(samples, LENGTH)
        rows = prompts[batch.rows_K].flatten(0, 1)
        states, _ = root.forward_packed(batch, lambda tokens: torch.cat([rows, tokens]), lambda *_: None)
    else:
        plain = collate(samples)
        (states, _), _ = root.forward_padded(plain, prompts[plain.rows_B])
    states.sum().backward()
    assert prompts.grad is not None
    return prompts.grad


@pytest.mark.parametrize("layers", [1, LAYERS])
@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_are_those_of_layers_that_are_kept(family: str, layers: int) -> None:
    how = FAMILIES[family][1]
    model, calls = built(family), []
    names = {name for name, module in model.named_modules() if name.endswith("self_attn")}
    assert len(names) == LAYERS
    for name, module in model.named_modules():
        if name in names:
            module.register_forward_pre_hook(lambda *_, name=name: calls.append(name))
    kept = gradient(model, how)
    assert len(calls) == LAYERS
    calls.clear()
    recompute_first(model, layers)
    again = gradient(model, how)
    assert torch.equal(kept, again)
    twice = {name for name in names if calls.count(name) == 2}
    assert len(calls) == LAYERS + layers and twice == {name for name in names if int(name.split(".")[-2]) < layers}
    assert not any(module.training for module in model.modules())


def test_answers_are_those_of_layers_that_are_kept() -> None:
    model = built("llama")
    prompts = torch.randn(2, LENGTH, HIDDEN, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    answers = [
        FrozenRoot(model).generate(
            [[4, 5], [6]], prompts_BLD=prompts, max_new_tokens=6, end_id=1, pad_id=0, synced=False
        )
    ]
    recompute_first(model, LAYERS)
    answers.append(
        FrozenRoot(model).generate(
            [[4, 5], [6]], prompts_BLD=prompts, max_new_tokens=6, end_id=1, pad_id=0, synced=False
        )
    )
    assert torch.equal(*answers) and answers[0].numel()


def test_a_model_without_such_layers_is_refused() -> None:
    with pytest.raises(BackboneError, match="Linear: .* set activation_checkpointing: none"):
        recompute_first(nn.Linear(2, 2), 1)
