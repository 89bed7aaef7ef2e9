"""A weight under two names: one file name or both, equal or not, it is what transformers makes of it."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from backbones import BackboneCard, BackboneError, backbone_checksum, build_backbone, parameter_count
from backbones.loading import tying
from backbones.loading.family_config import backbone_config
from backbones.tracing.module_trace import trace, twin_card
from backbones.tracing.sizes import measure_footprint

SIZES = {
    "vocab_size": 64,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}
HEAD, TABLE = "lm_head.weight", "model.embed_tokens.weight"


def released(folder: Path, kind: str = "llama", dtype: torch.dtype = torch.float32, **more: Any) -> BackboneCard:
    torch.manual_seed(5)
    config = AutoConfig.for_model(kind, **{**SIZES, "tie_word_embeddings": True, **more})
    AutoModelForCausalLM.from_config(config, dtype=dtype).save_pretrained(folder)
    return card_for(folder)


def card_for(folder: Path, dtype: str = "float32") -> BackboneCard:
    return BackboneCard(name="tied", path=str(folder), tokenizer="unused", dtype=dtype)


def rewrite(folder: Path, change: Any) -> dict[str, torch.Tensor]:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return weights


def check_like_transformers(folder: Path) -> Any:
    """The model, whose logits are transformers' own."""
    found, ids = build_backbone(card_for(folder), None), torch.arange(12)[None]
    expected = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    torch.testing.assert_close(found(ids).logits, expected(ids).logits, rtol=0, atol=0)
    assert (
        backbone_checksum(found) == backbone_checksum(expected) and parameter_count(found) == expected.num_parameters()
    )
    return found


def test_a_file_that_holds_the_head_alone(tmp_path: Path) -> None:
    card = released(tmp_path)
    rewrite(tmp_path, lambda w: w.update({HEAD: w.pop(TABLE)}))
    found = check_like_transformers(tmp_path)
    assert found.lm_head.weight is found.model.embed_tokens.weight
    assert measure_footprint(card).head == 0 and measure_footprint(card).rows_from_file


def test_a_head_of_its_own_is_kept(tmp_path: Path) -> None:
    card, tied = released(tmp_path), measure_footprint(card_for(tmp_path))
    rewrite(tmp_path, lambda w: w.update({HEAD: torch.randn(64, 16)}))
    said: list[str] = []
    found = build_backbone(card, None, print_rank0=said.append)
    assert found.lm_head.weight is not found.model.embed_tokens.weight and not found.config.tie_word_embeddings
    assert any(f"{HEAD} differs from {TABLE}" in line for line in said)
    check_like_transformers(tmp_path)
    sizes = measure_footprint(card)
    assert (
        sizes.head == sizes.embedding > tied.head == 0
        and sizes.numbers == tied.numbers + 64 * 16 == parameter_count(found)
    )
    assert {HEAD, TABLE} <= {name for name, _, _ in sizes.parameters} and sum(sizes.sharded_tensors) == sum(
        tied.sharded_tensors
    )
    assert twin_card(card).random["tie_word_embeddings"] is False


@pytest.mark.parametrize("slices", [tying.SLICE, 100])
def test_one_bit_makes_a_head_its_own_and_none_does_not(
    tmp_path: Path, slices: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tying, "SLICE", slices)
    card = released(tmp_path)
    weights = rewrite(tmp_path, lambda w: w.update({HEAD: w[TABLE].clone()}))
    assert backbone_config(card).tie_word_embeddings
    check_like_transformers(tmp_path)
    last = weights[HEAD].view(-1)[-1]
    rewrite(tmp_path, lambda w: w[HEAD].view(-1)[-1:].copy_(torch.nextafter(last, torch.tensor(math.inf))))
    assert not backbone_config(card).tie_word_embeddings
    check_like_transformers(tmp_path)


def test_values_are_compared_as_they_are_used(tmp_path: Path) -> None:
    """As transformers does, after their conversion."""
    released(tmp_path)
    rewrite(tmp_path, lambda w: w.update({HEAD: w[TABLE] * (1 + 1e-5)}))
    tied = {dtype: backbone_config(card_for(tmp_path, dtype)).tie_word_embeddings for dtype in ("float32", "bfloat16")}
    rounded = {n: w.bfloat16() for n, w in load_file(tmp_path / "model.safetensors").items() if n in (HEAD, TABLE)}
    assert not tied["float32"] and tied["bfloat16"] == rounded[HEAD].equal(rounded[TABLE])
    rewrite(tmp_path, lambda w: w.update({HEAD: w[TABLE].bfloat16(), TABLE: w[TABLE].bfloat16().float()}))
    assert backbone_config(card_for(tmp_path)).tie_word_embeddings


def test_unchanged_files_are_compared_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card, compared, plain = released(tmp_path), [], tying._equal
    rewrite(tmp_path, lambda w: w.update({HEAD: w[TABLE].clone()}))
    monkeypatch.setattr(tying, "_equal", lambda *args, **named: compared.append(1) or plain(*args, **named))
    assert (
        backbone_config(card).tie_word_embeddings and backbone_config(card).tie_word_embeddings and len(compared) == 2
    )
    monkeypatch.setattr(
        "backbones.loading.digests.SETTLED", -1e9
    )  # from here on as files that have lain there for a while
    assert (
        backbone_config(card).tie_word_embeddings and backbone_config(card).tie_word_embeddings and len(compared) == 3
    )


def test_a_wrong_head_is_told_and_a_configuration_alone_is_enough_to_measure(tmp_path: Path) -> None:
    card = released(tmp_path)
    rewrite(tmp_path, lambda w: w.update({HEAD: torch.randn(60, 16)}))
    with pytest.raises(BackboneError, match=r"shape of lm_head.weight: file \(60, 16\), model \(64, 16\)"):
        build_backbone(card, None)
    (tmp_path / "model.safetensors").unlink()
    assert measure_footprint(card).head == 0 and measure_footprint(card).rows_from_file


def test_a_head_of_its_own_in_a_family_whose_weights_are_merged(tmp_path: Path) -> None:
    released(tmp_path, "mixtral", num_local_experts=3, num_experts_per_tok=2)
    rewrite(tmp_path, lambda w: w.update({HEAD: torch.randn(64, 16)}))
    check_like_transformers(tmp_path)


def test_a_pair_that_transformers_alone_finds_apart_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A family whose files call the embedding otherwise than its model does."""
    card = released(tmp_path, "mixtral", num_local_experts=3, num_experts_per_tok=2)
    rewrite(tmp_path, lambda w: w.update({HEAD: torch.randn(64, 16)}))
    monkeypatch.setattr("backbones.loading.family_config.stored_apart", lambda *_: [])
    with pytest.raises(BackboneError, match=f"{HEAD} differs from {TABLE}.* set tie_word_embeddings: false"):
        build_backbone(card, None)


@pytest.mark.parametrize("rows_from_file", [False, True])
@pytest.mark.parametrize("apart", [False, True])
def test_a_trace_and_sizes_call_parameters_alike(tmp_path: Path, rows_from_file: bool, apart: bool) -> None:
    card = released(tmp_path)
    if apart:
        rewrite(tmp_path, lambda w: w.update({HEAD: torch.randn(64, 16)}))
    known = {name for name, _, _ in measure_footprint(card).parameters}
    named = {name for module in trace(card, rows_from_file=rows_from_file).modules for name in module}
    assert named == (known - {TABLE} if rows_from_file and apart else known)
