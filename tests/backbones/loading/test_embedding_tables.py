"""Embedding tables that do more than look up: a sharded backbone leaves them where they are."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from backbones import BackboneCard, build_backbone
from backbones.loading.embedding_rows import RowsFromFile, looks_up_plainly
from backbones.loading.exact_buffers import rebuild_buffers
from backbones.tracing.sizes import measure_footprint

SIZES = {
    "vocab_size": 64,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
}
FAMILIES = {  # whether embeddings leave the table as they lie in it
    "llama": ({"num_key_value_heads": 1}, True),
    "granite": ({"num_key_value_heads": 1, "embedding_multiplier": 12.0}, True),
    "biogpt": ({}, False),
    "gemma": ({"num_key_value_heads": 1, "head_dim": 8}, False),
    "mixtral": ({"num_key_value_heads": 1, "num_local_experts": 3, "num_experts_per_tok": 2}, True),
}


def released(folder: Path, family: str) -> Any:
    torch.manual_seed(5)
    model = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(family, **{**SIZES, **FAMILIES[family][0]}), dtype=torch.float32
    )
    model.save_pretrained(folder)
    return model.eval()


def card_for(folder: Path) -> BackboneCard:
    return BackboneCard(name="x", path=str(folder), tokenizer="unused", dtype="float32")


@pytest.mark.parametrize("family", FAMILIES)
def test_which_tables_give_out_their_rows(tmp_path: Path, family: str) -> None:
    model = released(tmp_path, family)
    table, ids, plain = model.get_input_embeddings(), torch.arange(64), FAMILIES[family][1]
    assert looks_up_plainly(table) == plain
    rows = RowsFromFile(table.weight.detach(), torch.float32, torch.device("cpu"))(ids)
    assert torch.equal(rows, table(ids)) == plain
    # what is merged as it loads, as mixtral's experts, goes through transformers and has no rows in a file
    assert measure_footprint(card_for(tmp_path)).rows_from_file == (plain and family != "mixtral")


@pytest.mark.parametrize("family", ["biogpt", "gemma", "granite"])
def test_hidden_states_of_scaled_embeddings_are_transformers_own(tmp_path: Path, family: str) -> None:
    expected, ids = released(tmp_path, family), torch.arange(1, 21)[None]
    found = build_backbone(card_for(tmp_path), None)
    for given in ({"input_ids": ids}, {"inputs_embeds": found.get_input_embeddings()(ids)}):
        states = found.base_model(**given).last_hidden_state
        torch.testing.assert_close(states, expected.base_model(input_ids=ids).last_hidden_state, rtol=0, atol=0)


def test_any_other_forward_or_norm_keeps_a_table() -> None:
    class Normed(nn.Embedding):
        def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002
            return nn.functional.normalize(super().forward(input), dim=-1)

    class Renamed(nn.Embedding):
        """No forward of its own."""

    replaced = nn.Embedding(4, 2)
    replaced.forward = lambda ids: ids  # type: ignore[method-assign]
    for table in (Normed(4, 2), nn.Embedding(4, 2, max_norm=1.0), replaced, nn.Linear(2, 4)):
        assert not looks_up_plainly(table)
    for table in (nn.Embedding(4, 2), nn.Embedding(4, 2, padding_idx=0, scale_grad_by_freq=True), Renamed(4, 2)):
        assert looks_up_plainly(table)


def test_a_scale_that_was_rounded_is_computed_again(tmp_path: Path) -> None:
    """As zero.Init leaves it; nothing of the second model's weights takes memory."""
    model, built = released(tmp_path, "gemma"), []
    exact, rotary = model.model.embed_tokens.embed_scale.clone(), model.model.rotary_emb.inv_freq.clone()
    config = AutoConfig.for_model("gemma", **{**SIZES, **FAMILIES["gemma"][0]})
    model.model.embed_tokens.embed_scale = torch.tensor(3.0, dtype=torch.bfloat16)
    model.model.rotary_emb.inv_freq = rotary.bfloat16()

    def build() -> Any:
        built.append(AutoModelForCausalLM.from_config(config, dtype=torch.float32))
        return built[0]

    rebuild_buffers(model, build)
    assert torch.equal(model.model.embed_tokens.embed_scale, exact) and torch.equal(
        model.model.rotary_emb.inv_freq, rotary
    )
    assert all(p.device.type == "meta" for p in built[0].parameters()) and nn.Linear(2, 2).weight.device.type == "cpu"
