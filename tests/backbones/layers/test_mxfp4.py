"""Four bits a number: the values of transformers' dequantised model, and gradients of experts that stay packed."""

import json
import sys

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.integrations.mxfp4 import convert_moe_packed_tensors
from transformers.models.gpt_oss.modeling_gpt_oss import GptOssExperts

from backbones import BackboneCard, BackboneError, FrozenRoot, build_backbone, parameter_count
from backbones.layers.mxfp4_experts import E2M1, Mxfp4Experts, dequantise, quantise
from backbones.loading.pack_mxfp4 import main, pack

SIZES = {
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "num_local_experts": 6,
    "num_experts_per_tok": 2,
    "sliding_window": 8,
    "max_position_embeddings": 128,
}


def every_byte_and_scale():
    blocks = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(1, 256, 16, 16).contiguous()
    scales = torch.arange(256, dtype=torch.uint8).view(1, 256, 1).expand(1, 256, 16).contiguous()
    return blocks, scales


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_every_byte_under_every_scale_is_what_transformers_makes_of_it(dtype):
    blocks, scales = every_byte_and_scale()
    expected = convert_moe_packed_tensors(blocks, scales, dtype=dtype).transpose(1, 2)
    found = dequantise(blocks, scales, dtype)
    assert (
        found.shape == (1, 256, 512) and found[:, 255].isnan().all()
    )  # the format's NaN, which transformers reads as 2^128
    assert torch.equal(found[:, :255].signbit(), expected[:, :255].signbit()) and torch.equal(
        found[:, :255], expected[:, :255]
    )  # -0 too


def test_the_kernel_in_the_interpreter(interpreted):
    code = (
        "import sys, torch; from backbones.kernels import mxfp4 as mxfp4_kernel; from backbones.layers import "
        "mxfp4_experts as mxfp4\n"
        "g = torch.Generator().manual_seed(0)\n"
        "blocks = torch.randint(0, 256, (3, 25, 16), dtype=torch.uint8, generator=g)\n"
        "scales = torch.randint(0, 255, (3, 25), dtype=torch.uint8, generator=g); scales[0, :4] = "
        "torch.tensor([0, 1, 254, 255])\n"
        "assert mxfp4_kernel.available(blocks)\n"
        "found = mxfp4.dequantise(blocks, scales, torch.float32); mxfp4_kernel.triton = None\n"
        "assert not mxfp4_kernel.available(blocks) \n"
        "wanted = mxfp4.dequantise(blocks, scales, torch.float32)\n"
        "torch.testing.assert_close(found, wanted, rtol=0, atol=0, equal_nan=True)\n"
        "mxfp4_kernel.triton = sys.modules['triton']; out = torch.full((3 * 25 * 32,), 7.0)\n"
        "mxfp4.dequantise(blocks, scales, torch.float32, out, torch.tensor([4, 4, 5], dtype=torch.int32)); out = "
        "out.view(3, -1)\n"
        "torch.testing.assert_close(out[::2], wanted.view(3, -1)[::2], rtol=0, atol=0, equal_nan=True)\n"
        "assert (out[1] == 7).all(); print('ran')"  # nobody asked the second expert
    )
    assert interpreted(code) == "ran\n"


def test_quantising_what_four_bits_hold_changes_nothing():
    g = torch.Generator().manual_seed(0)
    blocks, scales = (
        torch.randint(0, 256, (5, 7, 3, 16), dtype=torch.uint8, generator=g),
        torch.randint(3, 250, (5, 7, 3), dtype=torch.uint8, generator=g),
    )
    wide = dequantise(blocks, scales, torch.float32)
    assert torch.equal(dequantise(*quantise(wide), torch.float32), wide)


def test_quantising_takes_the_nearest_value_under_the_block_s_scale():
    g = torch.Generator().manual_seed(1)
    weight = torch.randn(40, 64, generator=g) * torch.logspace(-20, 20, 40)[:, None]
    weight[3, :32] = 0
    blocks, scales = quantise(weight)
    found = dequantise(blocks, scales, torch.float32)
    unit = torch.ldexp(torch.ones(40, 2), scales.int() - 127).repeat_interleave(32, 1)
    candidates = torch.tensor(E2M1)[:, None, None] * unit
    nearest = (candidates - weight).abs().amin(0)
    assert torch.equal((found - weight).abs(), nearest)
    assert ((weight.unflatten(1, (2, 32)).abs().amax(2) / unit[:, ::32])[4:] < 8).all() and found[3, :32].eq(0).all()


def experts_pair(dtype, scale=1.0):
    """transformers' wide experts and ours, holding the same numbers."""
    torch.manual_seed(0)
    config = AutoConfig.for_model("gpt_oss", **SIZES)
    wide, packed = GptOssExperts(config).to(dtype).requires_grad_(False), Mxfp4Experts(config)
    for name in ("gate_up_proj", "down_proj"):
        blocks, scales = quantise(torch.randn(getattr(wide, name).transpose(1, 2).shape) * 0.2 * scale)
        getattr(packed, f"{name}_blocks").data, getattr(packed, f"{name}_scales").data = blocks, scales
        getattr(wide, name).data = dequantise(blocks, scales, dtype).transpose(1, 2).contiguous()
        bias = torch.randn(getattr(wide, f"{name}_bias").shape, dtype=dtype)
        getattr(packed, f"{name}_bias").data = getattr(wide, f"{name}_bias").data = bias
    return wide, packed


@pytest.mark.parametrize(("dtype", "bar"), [(torch.float64, 1e-13), (torch.float32, 1e-6)])
@pytest.mark.parametrize("scale", [1.0, 8.0])  # 8: many gates and ups beyond the clamp
def test_experts_and_their_gradients_equal_the_wide_ones(dtype, bar, scale):
    wide, packed = experts_pair(dtype, scale)
    g = torch.Generator().manual_seed(1)
    x = torch.randn(23, 64, dtype=dtype, generator=g)
    experts = torch.stack([torch.randperm(5, generator=g)[:2] for _ in range(23)])  # the sixth sees no token
    share = torch.rand(23, 2, dtype=dtype, generator=g)
    weights = torch.randn(23, 64, dtype=dtype, generator=g)
    outs = []
    for module in (wide, packed):
        inputs = x.clone().requires_grad_(), share.clone().requires_grad_()
        out = module(inputs[0], experts, inputs[1])
        outs.append([out.detach(), *torch.autograd.grad((out * weights).sum(), inputs)])
    if scale > 1:
        first = x[:, None] @ wide.gate_up_proj[0].to(dtype)
        assert (first.abs() > 7).double().mean() > 0.1
    for found, expected in zip(outs[1], outs[0], strict=True):
        assert ((found - expected).norm() / expected.norm()) <= bar


def test_no_wide_weight_is_kept_for_the_backward_pass():
    _, packed = experts_pair(torch.float32)
    kept = []
    x, share = torch.randn(3, 64, requires_grad=True), torch.rand(3, 2, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        packed(x, torch.tensor([[0, 1], [2, 3], [4, 5]]), share)
    assert kept and max(kept) <= 6 * 2 * 96  # S x 2I


def released(folder, **more):
    """A tiny gpt-oss in the released layout, with sinks and biases that matter."""
    torch.manual_seed(5)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("gpt_oss", **{**SIZES, **more}), dtype=torch.bfloat16)
    for name, p in model.named_parameters():
        if "bias" in name or "sinks" in name:
            torch.nn.init.normal_(p)
    model.save_pretrained(folder / "wide", max_shard_size="40KB")
    pack(folder / "wide", folder / "packed")
    return folder / "packed"


def card_for(folder, **more):
    return BackboneCard(name="g", path=str(folder), tokenizer="unused", **{"dtype": "float32", **more})


def test_the_packed_folder_is_laid_out_as_released(tmp_path):
    folder = released(tmp_path)
    places = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    assert len(set(places.values())) > 1
    weights = {}
    for file in set(places.values()):
        weights |= load_file(folder / file)
    assert weights.keys() == places.keys()
    prefix = "model.layers.1.mlp.experts."
    shapes = {n.removeprefix(prefix): (tuple(w.shape), w.dtype) for n, w in weights.items() if n.startswith(prefix)}
    assert shapes == {
        "gate_up_proj_blocks": ((6, 192, 2, 16), torch.uint8),
        "gate_up_proj_scales": ((6, 192, 2), torch.uint8),
        "gate_up_proj_bias": ((6, 192), torch.bfloat16),
        "down_proj_blocks": ((6, 64, 3, 16), torch.uint8),
        "down_proj_scales": ((6, 64, 3), torch.uint8),
        "down_proj_bias": ((6, 64), torch.bfloat16),
    }


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_packed_backbone_equals_the_widened_one(tmp_path, dtype):
    folder = released(tmp_path)
    packed, wide = (build_backbone(card_for(folder, dtype=dtype, dequantize=d), None) for d in (False, True))
    assert isinstance(packed.model.layers[0].mlp.experts, Mxfp4Experts) and isinstance(
        wide.model.layers[0].mlp.experts, GptOssExperts
    )
    assert parameter_count(packed) == parameter_count(wide)
    with torch.no_grad():
        transformers_own = convert_moe_packed_tensors(
            *(getattr(packed.model.layers[1].mlp.experts, f"down_proj_{x}") for x in ("blocks", "scales")),
            dtype=getattr(torch, dtype),
        )
    assert torch.equal(wide.model.layers[1].mlp.experts.down_proj, transformers_own)
    g = torch.Generator().manual_seed(2)
    prompt = torch.randn(1, 20, 64, generator=g).to(getattr(torch, dtype))
    outs = []
    for model in (wide, packed):
        chosen = []
        hooks = [
            layer.mlp.router.register_forward_hook(lambda m, i, o, chosen=chosen: chosen.append(o[2]))
            for layer in model.model.layers
        ]
        p = prompt.clone().requires_grad_()
        logits = model(inputs_embeds=p, use_cache=False).logits
        logits.float().log_softmax(-1)[..., 3].sum().backward()
        outs.append((chosen, logits.detach(), p.grad))
        for hook in hooks:
            hook.remove()
    assert all(torch.equal(a, b) for a, b in zip(outs[0][0], outs[1][0], strict=True)), "another choice of experts"
    bar = 1e-6 if dtype == "float32" else 2e-2
    for found, expected in zip(outs[1][1:], outs[0][1:], strict=True):
        assert (found - expected).float().norm() / expected.float().norm() <= bar


def test_random_and_dummy_cards_can_be_packed(tmp_path):
    keys = {"model_type": "gpt_oss", **SIZES, "quantization_config": {"quant_method": "mxfp4"}}
    for dummy in (True, False):
        model = build_backbone(
            BackboneCard(name="g", random=keys, tokenizer="unused", dummy=dummy, dtype="float32"), None
        )
        weight = dequantise(
            *(getattr(model.model.layers[0].mlp.experts, f"down_proj_{x}") for x in ("blocks", "scales")), torch.float32
        )
        assert 0.01 < weight.std() < 0.04
    FrozenRoot(model)


@pytest.mark.parametrize(
    ("keys", "more", "wanted"),
    [
        ({"quantization_config": {"quant_method": "gptq"}}, {}, "gptq weights do not pass gradients"),
        ({"quantization_config": {"quant_method": "mxfp4"}, "hidden_size": 80}, {}, "must be multiples"),
        ({}, {"dequantize": True}, "not packed"),
    ],
)
def test_what_cannot_be_packed_is_refused(keys, more, wanted):
    card = BackboneCard(
        name="g", random={"model_type": "gpt_oss", **SIZES, **keys}, tokenizer="unused", dtype="float32", **more
    )
    with pytest.raises(BackboneError, match=wanted):
        build_backbone(card, None)


def test_the_packing_tool_refuses_what_it_cannot_pack(tmp_path, monkeypatch):
    folder = released(tmp_path)
    monkeypatch.setattr(sys, "argv", ["pack", "--source", str(folder), "--output", str(tmp_path / "twice")])
    with pytest.raises(SystemExit, match="packed already"):
        main()
    with pytest.raises(BackboneError, match="exists; name a new folder"):
        pack(tmp_path / "wide", folder)
    assert not (tmp_path / "twice").exists()
