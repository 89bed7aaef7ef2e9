"""Released files into frozen models: every weight filled, every wrong file named."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from backbones import (
    BackboneCard,
    BackboneError,
    backbone_checksum,
    build_backbone,
    load_backbone_card,
    parameter_count,
)
from backbones.loading.digests import backbone_fingerprint
from backbones.loading.safetensors_source import SafetensorsSource

SIZES = {
    "vocab_size": 64,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}


def released(folder, kind="llama", shards="5GB", dtype=torch.float32, **more):
    torch.manual_seed(5)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **SIZES, **more), dtype=dtype)
    model.save_pretrained(folder, max_shard_size=shards)
    return model


def card_for(folder, dtype="float32"):
    return BackboneCard(name="released", path=str(folder), tokenizer="unused", dtype=dtype)


@pytest.mark.parametrize(
    "kind, more",
    [
        ("llama", {}),
        ("llama", {"tie_word_embeddings": True}),
        ("qwen2", {}),
        ("mistral", {}),
        ("qwen3", {"head_dim": 8}),
    ],
)
@pytest.mark.parametrize("shards", ["5GB", "5KB"])
def test_released_weights_arrive_to_the_bit_in_any_family(tmp_path, kind, more, shards):
    expected = released(tmp_path, kind, shards, **more)
    assert (tmp_path / "model.safetensors.index.json").exists() == (shards == "5KB")
    found = build_backbone(card_for(tmp_path), None)
    assert backbone_checksum(found) == backbone_checksum(expected)
    ids = torch.arange(12)[None]
    torch.testing.assert_close(found(input_ids=ids).logits, expected(input_ids=ids).logits, rtol=0, atol=0)
    assert not any(p.requires_grad for p in found.parameters()) and parameter_count(found) == sum(
        p.numel() for p in expected.parameters()
    )


def test_bf16_files_load_as_bf16_and_as_fp32(tmp_path):
    expected = released(tmp_path, dtype=torch.bfloat16)
    for dtype in ("bfloat16", "float32"):
        found = build_backbone(card_for(tmp_path, dtype), None)
        assert {p.dtype for p in found.parameters()} == {getattr(torch, dtype)}
        assert found.lm_head.weight.float().equal(expected.lm_head.weight.float())


def test_every_wrong_weight_is_named_at_once(tmp_path):
    released(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    gone = weights.pop("model.norm.weight")
    weights["model.norm.wieght"] = gone
    weights["lm_head.weight"] = weights["lm_head.weight"][:10].clone()
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BackboneError) as caught:
        build_backbone(card_for(tmp_path), None)
    assert [p.split(": ", 1)[1] for p in caught.value.problems] == [
        "missing: model.norm.weight",
        "not in the model: model.norm.wieght",
        "shape of lm_head.weight: file (10, 16), model (64, 16)",
    ]


def test_torn_missing_and_packed_files(tmp_path):
    released(tmp_path, shards="5KB")
    first = sorted(tmp_path.glob("model-*.safetensors"))[0]
    first.write_bytes(first.read_bytes()[:20])
    with pytest.raises(BackboneError, match=f"{first.name}: not readable as safetensors"):
        build_backbone(card_for(tmp_path), None)
    first.unlink()
    with pytest.raises(BackboneError, match=f"{first.name} is named in the index but missing"):
        build_backbone(card_for(tmp_path), None)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": "mxfp4"}}))
    with pytest.raises(BackboneError, match="mxfp4 weights do not pass gradients"):
        build_backbone(card_for(tmp_path), None)


def test_families_that_change_logits_outside_the_head_are_refused():
    card = BackboneCard(
        name="g",
        random={"model_type": "gemma2", **SIZES, "head_dim": 8, "final_logit_softcapping": 30.0},
        tokenizer="unused",
        dtype="float32",
    )
    with pytest.raises(BackboneError, match="final_logit_softcapping"):
        build_backbone(card, None)


def test_fp64_under_deepspeed_is_refused():
    card = BackboneCard(name="l", random={"model_type": "llama", **SIZES}, tokenizer="unused", dtype="float32")
    with pytest.raises(BackboneError, match="float64"):
        build_backbone(card, {"zero_optimization": {"stage": 3}}, torch.float64)
    assert build_backbone(card, None, torch.float64).dtype == torch.float64


def test_random_weights_come_from_the_seed_and_leave_the_global_stream_alone():
    card = BackboneCard(name="l", random={"model_type": "llama", **SIZES}, tokenizer="unused", dtype="float32", seed=1)
    other = BackboneCard(name="l", random={"model_type": "llama", **SIZES}, tokenizer="unused", dtype="float32", seed=2)
    torch.manual_seed(3)
    first = backbone_checksum(build_backbone(card, None))
    torch.manual_seed(4)
    assert backbone_checksum(build_backbone(card, None)) == first != backbone_checksum(build_backbone(other, None))
    assert backbone_fingerprint(card) != backbone_fingerprint(other)


def test_fingerprint_sees_a_changed_weight(tmp_path):
    released(tmp_path)
    before = backbone_fingerprint(card_for(tmp_path))
    weights = load_file(tmp_path / "model.safetensors")
    weights["model.norm.weight"][0] += 1
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert backbone_fingerprint(card_for(tmp_path)) != before


def test_card_problems_come_together(tmp_path):
    file = tmp_path / "card.yaml"
    file.write_text("name: x\npth: /nowhere\ntemplate: harmnoy\nseed: one\n")
    with pytest.raises(BackboneError) as caught:
        load_backbone_card(file)
    text = str(caught.value)
    for part in (
        "unknown key 'pth'; did you mean 'path'?",
        "seed: must be a whole number; got 'one'",
        "set exactly one of the two",
        "template: must be one of none, chat, harmony; got 'harmnoy'",
        str(file),
    ):
        assert part in text
    file.write_text("name: x\npath: absent\n")
    with pytest.raises(BackboneError, match="absent does not exist"):
        load_backbone_card(file)


def test_a_card_refuses_keys_that_stand_twice_and_types_that_are_not_its_own(tmp_path):
    file = tmp_path / "card.yaml"
    file.write_text("name: x\npath: a\nseed: 1\npath: b\nseed: 2\n")
    with pytest.raises(BackboneError) as caught:
        load_backbone_card(file)
    assert caught.value.problems == [
        f"backbone card {file}, line 4: duplicate key 'path' (first in line 2)",
        f"backbone card {file}, line 5: duplicate key 'seed' (first in line 3)",
    ]
    file.write_text("name: 2.5\nrandom: llama\ndummy: 1\nattention: [a]\ntemplate: none\ndtype: float16\n")
    with pytest.raises(BackboneError) as caught:
        load_backbone_card(file)
    told = "\n".join(caught.value.problems)
    for part in (
        "name: must be text; got 2.5",
        "random: must be a mapping of keys to values",
        "dummy: must be true or false; got 1",
        "attention: must be text; got a list",
        "dtype: must be one of float32, bfloat16; got 'float16'; did you mean 'bfloat16'?",
    ):
        assert f"backbone card {file}: {part}" in told


def test_dummy_weights_need_no_files_but_the_configuration(tmp_path):
    released(tmp_path)
    real = backbone_fingerprint(card_for(tmp_path))
    for file in tmp_path.glob("*.safetensors"):
        file.unlink()
    card = replace(card_for(tmp_path), dummy=True)
    first, second, other = (
        dict(build_backbone(c, None).named_parameters()) for c in (card, card, replace(card, seed=1))
    )
    assert all(torch.equal(first[n], second[n]) for n in first) and backbone_fingerprint(card) != real
    assert all(torch.equal(first[n], other[n]) == ("norm" in n) for n in first)
    matrices = [p for n, p in first.items() if "norm" not in n]
    assert all(0.01 < p.std().item() < 0.03 for p in matrices if p.numel() > 50)
    assert len({p.sum().item() for p in matrices}) == len(matrices)


def test_a_family_whose_weights_are_merged_as_they_load_goes_through_transformers(tmp_path):
    expected = released(tmp_path, "mixtral", num_local_experts=3, num_experts_per_tok=2)
    stored = load_file(tmp_path / "model.safetensors")
    assert any(".experts.2." in n for n in stored) and not any(
        "gate_up_proj" in n for n in stored
    )  # one by one in the file, merged in the model
    said = []
    found = build_backbone(card_for(tmp_path), None, print_rank0=said.append)
    assert (
        backbone_checksum(found) == backbone_checksum(expected)
        and "mixtral renames or merges weights while loading" in said[0]
    )
    gone = next(n for n in stored if n.endswith("norm.weight"))
    save_file({n: w for n, w in stored.items() if n != gone}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BackboneError, match=f"missing: {gone}"):
        build_backbone(card_for(tmp_path), None)


@pytest.mark.parametrize("stored", [torch.float16, torch.float32, torch.bfloat16])
def test_any_stretch_of_a_weight_is_read_alone_and_converted(tmp_path, stored):
    weight = torch.randn(7, 300).to(stored)
    save_file({"w": weight, "after": torch.ones(3)}, tmp_path / "model.safetensors")
    source = SafetensorsSource(tmp_path)
    for dtype in (torch.bfloat16, torch.float32, torch.float64):
        out = torch.empty(1234, dtype=dtype)
        source.read("w", 601, out)
        assert torch.equal(out, weight.flatten()[601:1835].to(dtype))
    assert torch.equal(source.mapped("w"), weight)


def test_what_is_wrong_with_single_files(tmp_path):
    file = tmp_path / "model.safetensors"
    for header, wanted in (
        ({"w": {"dtype": "I7", "shape": [2], "data_offsets": [0, 8]}}, "w: dtype must be one of F32"),
        ({"w": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}}, r"w: 8 bytes for shape \(3,\)"),
        (
            {
                "w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
                "v": {"dtype": "F32", "shape": [2], "data_offsets": [8, 16]},
            },
            "cut short",
        ),
    ):
        text = json.dumps(header).encode()
        file.write_bytes(len(text).to_bytes(8, "little") + text + bytes(8))
        with pytest.raises(BackboneError, match=f"model.safetensors: {wanted}"):
            SafetensorsSource(tmp_path)
    save_file({"a": torch.ones(2)}, file)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": file.name, "b": file.name}}))
    with pytest.raises(BackboneError, match="b should be in model.safetensors according to the index, but is not"):
        SafetensorsSource(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text("{")
    with pytest.raises(BackboneError, match="not a safetensors index"):
        SafetensorsSource(tmp_path)


def test_a_file_that_shrinks_while_it_is_read_is_an_error(tmp_path):
    save_file({"w": torch.ones(1000)}, tmp_path / "model.safetensors")
    source = SafetensorsSource(tmp_path)
    with (tmp_path / "model.safetensors").open("r+b") as file:
        file.truncate(500)
    with pytest.raises(BackboneError, match="ended while it was read"):
        source.read("w", 0, torch.empty(1000))


def test_a_card_s_path_may_name_an_environment_variable(tmp_path, monkeypatch):
    released(tmp_path / "weights")
    (tmp_path / "card.yaml").write_text("name: x\npath: $WHERE_WEIGHTS_ARE/weights\ntokenizer: card.yaml\n")
    monkeypatch.delenv("WHERE_WEIGHTS_ARE", raising=False)
    with pytest.raises(BackboneError, match="the environment variable in it is not set"):
        load_backbone_card(tmp_path / "card.yaml")
    monkeypatch.setenv("WHERE_WEIGHTS_ARE", str(tmp_path))
    assert load_backbone_card(tmp_path / "card.yaml").path == str(tmp_path / "weights")
