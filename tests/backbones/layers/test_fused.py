"""Fused parts of layers in Triton's interpreter, against transformers' operators: tiny. On a GPU tests/gpu runs the
same.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from backbones import BackboneCard, build_backbone
from backbones.layers.fused import fuse, is_fused, unfuse, unfused
from backbones.layers.mxfp4_experts import Mxfp4Experts
from backbones.loading.recomputation import recompute_first

SIZES = {
    "vocab_size": 64,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"sliding_window": 4, "head_dim": 8},
    "qwen2": {},
    "qwen3": {"head_dim": 8},
    "phi3": {"pad_token_id": 0},
    "gpt_oss": {
        "head_dim": 8,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "sliding_window": 4,
        "max_position_embeddings": 131072,
    },
}
# a layer's two norms, its gated activation and its rotary positions, and the last norm; qwen3 norms its queries and
# keys too
FUSED = {"llama": 9, "mistral": 9, "qwen2": 9, "qwen3": 13, "phi3": 5, "gpt_oss": 7}


def model_of(family: str, dtype: torch.dtype = torch.float32) -> Any:
    config = {"model_type": family, **SIZES, **FAMILIES[family]}
    return build_backbone(BackboneCard(name=family, random=config, seed=3, tokenizer="t", dtype="float32"), None, dtype)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_known_is_replaced_and_a_cpu_computes_as_before(family: str) -> None:
    model = model_of(family)
    names = dict(model.named_modules())
    x = torch.randn(1, 7, 24, generator=torch.Generator().manual_seed(0), requires_grad=True)
    found = []
    for fused in (False, True):
        if fused:
            assert fuse(model) == FUSED[family]
        (gradient,) = torch.autograd.grad(model(inputs_embeds=x).logits.square().sum(), x)
        found.append(gradient)
    assert torch.equal(*found) and dict(model.named_modules()) == names


def test_another_model_of_the_process_keeps_its_rotary_positions() -> None:
    fuse(model_of("llama"))
    other = model_of("llama")
    attention = type(other.model.layers[0].self_attn)
    assert "forward" not in vars(other.model.layers[0].self_attn)
    assert attention.forward.__globals__["apply_rotary_pos_emb"].__module__ == attention.__module__


@pytest.mark.parametrize("family", FAMILIES)
def test_transformers_forwards_come_back_and_go_again(family: str) -> None:
    model = model_of(family)
    replaced = lambda: {n: m.forward.__func__ for n, m in model.named_modules() if "forward" in vars(m)}  # noqa: E731
    with unfused(model):
        assert not is_fused(model)
    assert not is_fused(model) and not replaced()  # what was not fused is not fused afterwards
    fuse(model)
    ours = replaced()
    assert is_fused(model) and len(ours) == FUSED[family]
    with pytest.raises(ZeroDivisionError), unfused(model):
        assert not is_fused(model) and not replaced()
        raise ZeroDivisionError
    assert is_fused(model) and replaced().keys() == ours.keys()
    assert unfuse(model) == FUSED[family] and unfuse(model) == 0 and not replaced()


def test_packed_experts_are_told_and_forwards_of_others_stay() -> None:
    packed = {"hidden_size": 32, "intermediate_size": 32, "quantization_config": {"quant_method": "mxfp4"}}
    config = {"model_type": "gpt_oss", **SIZES, **FAMILIES["gpt_oss"], **packed}
    card = BackboneCard(name="packed", random=config, seed=3, tokenizer="t", dtype="float32", dummy=True)
    model: Any = build_backbone(card, None)
    recompute_first(model, 1)  # replaces the forward of a layer, which is not fuse's to give back
    computed_again = model.model.layers[0].forward
    experts = [m for m in model.modules() if isinstance(m, Mxfp4Experts)]
    assert fuse(model) == FUSED["gpt_oss"] + len(experts) and all(m.fused for m in experts)
    with unfused(model):
        assert not any(m.fused for m in experts) and model.model.layers[0].forward is computed_again
    assert len(experts) == 2 and all(m.fused for m in experts)


CHECKS = '''
import torch
from transformers import AutoConfig
from transformers.models.gpt_oss.modeling_gpt_oss import apply_rotary_pos_emb as by_half
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb
from backbones import FrozenRoot
from backbones.kernels import fused as fused_kernels
from backbones.layers import fused, mxfp4_experts as mxfp4
from engine.data.packing import pack
from engine.data.sample import Sample
from tests.backbones.layers.test_fused import FAMILIES, model_of

g = torch.Generator().manual_seed(0)
draw = lambda *shape: torch.randn(*shape, generator=g)
close = lambda a, b, at: ((a.double() - b.double()).norm() / b.double().norm()).item() <= at
assert fused_kernels.available(torch.zeros(1)) and not fused_kernels.available(torch.zeros(1, dtype=torch.float64))


def both(ours, plain, inputs, grad):
    """Values and gradients, ours and the plain ones."""
    out = []
    for call in (ours, plain):
        given = [x.detach().requires_grad_() for x in inputs]
        value = call(*given)
        out.append([value, *torch.autograd.grad(value, given, grad)])
    return zip(*out, strict=True)


# the interpreter cuts bf16 off where a GPU rounds it: twice the error
for dtype, at in ((torch.float32, 2e-6), (torch.bfloat16, 1e-2)):
    weight = torch.nn.Parameter(1 + 0.3 * draw(40).to(dtype), requires_grad=False)

    def norm(x, wide):
        h = x.float() * torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + 1e-6)
        return (weight * h).to(dtype) if wide else weight * h.to(dtype)

    for wide in (False, True):
        x, grad = draw(1, 9, 40).to(dtype), draw(1, 9, 40).to(dtype)
        for a, b in both(lambda x: fused._Norm.apply(x, weight, 1e-6, wide), lambda x: norm(x, wide), [x], grad):
            assert a.dtype == dtype and close(a, b, at)
    gate, up, grad = (draw(5, 700).to(dtype) for _ in range(3))
    for a, b in both(fused._SiluTimes.apply, lambda x, y: torch.nn.functional.silu(x) * y, [gate, up], grad):
        assert a.dtype == dtype and close(a, b, at)
    for width, plain, share in ((10, apply_rotary_pos_emb, 1), (8, by_half, 2)):
        q = draw(1, 6, 11, width).to(dtype).transpose(1, 2)  # (1, S, H, d) -> (1, H, S, d), as projections give it
        cos, sin = draw(1, 6, width // share).to(dtype), draw(1, 6, width // share).to(dtype)
        ours = lambda x: fused._Rotated.apply(x.squeeze(0), cos.squeeze(0), sin.squeeze(0))[None]
        assert q.shape == (1, 11, 6, width)
        for a, b in both(ours, lambda x: plain(x, x, cos, sin)[0], [q], draw(1, 11, 6, width).to(dtype)):
            assert a.dtype == dtype and close(a, b, at)

sizes = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4}
sizes |= {"num_local_experts": 6, "num_experts_per_tok": 2}
packed = mxfp4.Mxfp4Experts(AutoConfig.for_model("gpt_oss", **sizes, num_key_value_heads=2))
for name, rows, width in (("gate_up_proj", 192, 64), ("down_proj", 64, 96)):
    blocks, scales = mxfp4.quantise(0.3 * draw(6, rows, width))
    packed.get_parameter(f"{name}_blocks").data, packed.get_parameter(f"{name}_scales").data = blocks, scales
    packed.get_parameter(f"{name}_bias").data = draw(6, rows)
# 3: many beyond the clamp; in bf16 few, for at its edge a rounding decides between a slope and none
for dtype, at, size in ((torch.float32, 3e-6, 3.0), (torch.bfloat16, 2e-2, 0.5)):
    for name in ("gate_up_proj_bias", "down_proj_bias"):
        packed.get_parameter(name).data = packed.get_parameter(name).data.to(dtype)
    choices = torch.stack([torch.randperm(5, generator=g)[:2] for _ in range(13)])  # the last expert has no token
    x, share, grad = (size * draw(13, 64)).to(dtype), draw(13, 2).softmax(1).to(dtype), draw(13, 64).to(dtype)

    def experts(fused):
        def call(x, share):
            packed.fused = fused
            return packed(x, choices, share)
        return call

    for a, b in both(experts(True), experts(False), [x, share], grad):
        assert a.dtype == dtype and close(a, b, at)
    x[3] = torch.nan  # of a row that diverges nothing becomes a number, and of another nothing a NaN
    for a, b in both(experts(True), experts(False), [x, share], grad):
        assert a[3].isnan().all() and torch.equal(a.isnan(), b.isnan())

samples = [Sample([4, 5, 6, 7], [8, 1], row=0), Sample([9], [1], row=1)]
batch = pack(samples, 3)
for family in FAMILIES:
    model, grads = model_of(family), []
    for with_kernels in (False, True):
        if with_kernels:
            fused.fuse(model)
        prompts = torch.randn(2, 3, 24, generator=torch.Generator().manual_seed(2), requires_grad=True)
        rows = prompts[batch.rows_K].flatten(0, 1)
        fill = lambda tokens, rows=rows: torch.cat([rows, tokens])
        hidden_ND, _ = FrozenRoot(model).forward_packed(batch, fill, lambda *_: None)
        # not their squares: the last norm makes the sum of those a constant
        (hidden_ND * torch.linspace(-1, 1, hidden_ND.numel()).view_as(hidden_ND)).sum().backward()
        grads.append(prompts.grad)
    assert not torch.equal(*grads) and close(grads[1], grads[0], 3e-6), family
print("fused")
'''


def test_the_kernels_in_the_interpreter(interpreted: Callable[..., str]) -> None:
    assert interpreted(CHECKS) == "fused\n"
