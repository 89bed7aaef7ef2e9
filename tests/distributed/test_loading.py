"""Released folders straight into ZeRO-3 shards, on gloo ranks: every bit of every shard, of what it gathers to, and
of every buffer.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import distributed_jobs as jobs
import pytest
import torch
from distributed_pool import Pool
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from backbones.loading.pack_mxfp4 import pack

HPZ = {"zero_hpz_partition_size": 2}


@pytest.fixture(scope="module", params=["two", "three"])
def pool(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Folders in the layout of a release, cut into small files; odd sizes, so that shards end within rows."""
    out, root = {}, tmp_path_factory.mktemp("released")
    for family, dtype in (("llama", torch.bfloat16), ("llama_tied", torch.float32), ("gpt_oss", torch.bfloat16)):
        keys = {**jobs.FAMILIES[family], "vocab_size": 259}
        torch.manual_seed(3)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**keys), dtype=dtype)
        for p in model.parameters():
            torch.nn.init.normal_(p)  # norms, biases and sinks too
        model.save_pretrained(root / family, max_shard_size="30KB" if family != "llama_tied" else "5GB")
        out[family] = str(root / family)
    pack(root / "gpt_oss", root / "mxfp4")
    return {**out, "mxfp4": str(root / "mxfp4")}


def settings(folder: Path, offload: bool, **more: Any) -> str:
    zero = {
        "stage": 3,
        "stage3_param_persistence_threshold": 0,
        **({"offload_param": {"device": "cpu"}} if offload else {}),
        **more,
    }
    (folder / "ds.json").write_text(json.dumps({"zero_optimization": zero}))
    return str(folder / "ds.json")


def check(ranks: list[dict[str, Any]], world: int, from_file: bool = True) -> None:
    for rank in ranks:
        assert rank["rows_from_file"] == from_file and rank["numbers"][0] == rank["numbers"][1]
        assert rank["wrong"] == [] and rank["buffers"] == []
        assert 1 / world <= rank["held"] / rank["whole"] < 1 / world + 0.01
    assert any("MB of weights in" in line for line in ranks[0]["said"])


@pytest.mark.parametrize("offload", [True, False])
@pytest.mark.parametrize("family", ["llama", "llama_tied", "gpt_oss", "mxfp4"])
def test_every_shard_and_buffer_to_the_bit(
    pool: Pool, released: dict[str, str], family: str, offload: bool, tmp_path: Path
) -> None:
    dtype = "float32" if family == "llama" else "bfloat16"  # read as stored, widened, and narrowed
    check(
        pool.run("loaded", card={"path": released[family], "dtype": dtype}, deepspeed=settings(tmp_path, offload)),
        pool.world,
    )


def test_packed_experts_can_be_widened_as_they_are_read(pool: Pool, released: dict[str, str], tmp_path: Path) -> None:
    card = {"path": released["mxfp4"], "dtype": "float32", "dequantize": True}
    check(pool.run("loaded", card=card, deepspeed=settings(tmp_path, True)), pool.world)


@pytest.mark.parametrize("family", ["llama", "mxfp4"])
def test_secondary_shards_on_two_nodes_of_two(
    four: Pool, released: dict[str, str], family: str, tmp_path: Path
) -> None:
    ranks = four.run(
        "loaded", card={"path": released[family], "dtype": "bfloat16"}, deepspeed=settings(tmp_path, False, **HPZ)
    )
    check(ranks, 4)
    assert all(rank["secondary"] > 10 for rank in ranks)


def test_a_dummy_backbone_is_the_same_on_any_number_of_ranks(pool: Pool, tmp_path: Path) -> None:
    check(
        pool.run(
            "loaded",
            card={"random": jobs.GPT_OSS, "dummy": True, "dtype": "bfloat16"},
            deepspeed=settings(tmp_path, True),
        ),
        pool.world,
        False,
    )


SMALL = {
    "vocab_size": 67,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("family", "more"),
    [
        ("biogpt", {}),
        ("gemma", {"head_dim": 8, "num_key_value_heads": 2}),
        ("granite", {"embedding_multiplier": 12.0}),
        ("llama", {"tie_word_embeddings": True}),
        ("llama", {"tie_word_embeddings": True, "head": "alone"}),
        ("llama", {"tie_word_embeddings": True, "head": "its own"}),
    ],
)
def test_embeddings_are_scaled_and_tied_as_by_transformers(
    two: Pool, tmp_path: Path, family: str, more: Any, dtype: str
) -> None:
    head = more.get("head")
    torch.manual_seed(3)
    config = AutoConfig.for_model(family, **SMALL, **{k: v for k, v in more.items() if k != "head"})
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(tmp_path)
    if head:
        weights = load_file(tmp_path / "model.safetensors")
        table = weights["model.embed_tokens.weight"]
        weights["lm_head.weight"] = table if head == "alone" else torch.randn_like(table)
        if head == "alone":
            del weights["model.embed_tokens.weight"]
        save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    card = {"path": str(tmp_path), "dtype": dtype}
    for rank in two.run("hidden_states", card=card, deepspeed=settings(tmp_path, True)):
        exact = (1e-6 if dtype == "float32" else 0.02) * rank["scale"]
        assert max(rank["apart"]) <= exact and rank["logits"] <= exact and rank["buffers"] == []
        assert rank["rows_from_file"] == (family not in ("biogpt", "gemma"))


def test_broken_folders_are_refused_on_every_rank_alike(pool: Pool, released: dict[str, str], tmp_path: Path) -> None:
    folder = tmp_path / "broken"
    shutil.copytree(released["llama"], folder)
    files = sorted(folder.glob("*.safetensors"))
    assert len(files) == 3
    files[0].unlink()
    files[1].rename(folder / "renamed.safetensors")
    files[2].write_bytes(files[2].read_bytes()[:-10])
    found = pool.run("refused", card={"path": str(folder), "dtype": "bfloat16"}, deepspeed=settings(tmp_path, True))
    assert all(problems == found[0] for problems in found) and len(found[0]) == 3
    assert all(
        part in problem
        for part, problem in zip(
            (
                f"{files[0].name} is named in the index but missing",
                f"{files[1].name} is named in the index but missing",
                f"{files[2].name}: cut short",
            ),
            found[0],
            strict=True,
        )
    )
