"""What ``plan`` says that ZeRO-3 gathers, beside what real ranks gather: equal, to the byte, from the first
micro-batch on.
"""

import copy
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import distributed_jobs as jobs
import pytest
import torch
from distributed_pool import Pool
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from backbones import BackboneCard
from backbones.tracing.module_trace import trace
from backbones.tracing.sizes import measure_footprint
from engine.distributed.machine import Machine
from engine.distributed.placement import deepspeed_file_of
from engine.distributed.zero3 import zero_config
from engine.planning.zero3_simulator import Coordinator, rules_of

LONG = pytest.mark.long  # of a product of cases, those whose parts others hold
STAGES = {
    "teach": ["embed"] * 3 + ["train"] * 4 + ["forward"] * 2 + ["train"] * 3,
    "distill": ["embed"] + ["train_with_teacher"] * 5,
    "adapt": ["train"] * 3 + ["forward"] + ["train"] * 2,
}


def deepspeed_file(folder: Path, base: str, **zero: Any) -> str:
    content = json.loads(Path(base).read_text())
    content["zero_optimization"] |= zero
    file = folder / f"{'_'.join(zero) or 'plain'}.json"
    file.write_text(json.dumps(content))
    return str(file)


def predicted(
    card: BackboneCard, file: str, kinds: list[str], recompute: int, packed: bool, machine: Machine
) -> list[list[int]]:
    sizes = measure_footprint(card)
    rules = rules_of(zero_config(file, card, sizes, machine.ranks_per_node), machine)
    coordinator = Coordinator(
        sizes, trace=trace(card, recompute, packed, sizes.rows_from_file), rules=rules, machine=machine
    )
    return [list(coordinator.micro_batch(kind)) for kind in kinds]


def check(
    pool: Pool,
    card: BackboneCard,
    file: str,
    stage: str,
    recompute: int = 0,
    packed: bool = True,
    ranks_per_node: int = 1,
) -> list[list[int]]:
    """The prediction, which every rank was held against."""
    machine = Machine(pool.world // ranks_per_node, ranks_per_node, "cpu", 0, 10**10)
    wanted = predicted(card, file, STAGES[stage], recompute, packed, machine)
    plain = {k: v for k, v in asdict(card).items() if k != "tokenizer"}
    how = {"budget": 80, "recompute": recompute, "packed": packed, "ranks_per_node": ranks_per_node}
    found = pool.run("traffic", card=plain, deepspeed=file, kinds=STAGES[stage], **how)
    for rank in found:
        assert rank == wanted
    assert sum(map(sum, wanted)) > 0
    return wanted


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize(
    ("family", "dtype"),
    [
        ("llama", "float32"),
        ("llama", "bfloat16"),
        ("llama_tied", "float32"),
        ("gpt_oss", "bfloat16"),
        ("mxfp4", "bfloat16"),
    ],
)
def test_every_micro_batch_of_every_stage_gathers_what_is_predicted(two, project, family, dtype, stage):
    check(two, jobs.card_of(family, dtype), deepspeed_file_of("zero3"), stage)


@pytest.mark.parametrize(
    ("family", "reach"),
    [
        ("llama", 1.4),
        ("mxfp4", 0),
        *(pytest.param("llama", reach, marks=LONG) for reach in (0, 1, 2.7)),
        *(pytest.param("mxfp4", reach, marks=LONG) for reach in (1, 1.4, 2.7)),
    ],
)
def test_large_backbones_fetch_again_what_small_ones_keep(two, tmp_path, family, reach):
    """DeepSpeed keeps what is used again within a billion elements, and what its prefetch has passed over: all of a
    small backbone. Here the reach is a few layers, as of a large one, with and without a prefetch.
    """
    card = jobs.card_of(family, "bfloat16")
    layer = measure_footprint(card).layer_elements
    far = check(two, card, deepspeed_file_of("zero3"), "distill")
    reused = {"stage3_max_reuse_distance": int(reach * layer)}
    check(two, card, deepspeed_file(tmp_path, deepspeed_file_of("zero3"), **reused), "distill")
    near = check(
        two,
        card,
        deepspeed_file(tmp_path, deepspeed_file_of("zero3"), **reused, stage3_prefetch_bucket_size=0),
        "distill",
    )
    assert near[-1][2] >= far[-1][2] * (1.3 if reach <= 1 else 1)


@pytest.mark.parametrize(
    ("key", "share"),
    [
        ("stage3_prefetch_bucket_size", 0),
        ("stage3_prefetch_bucket_size", 2.5),
        ("stage3_max_live_parameters", 0.5),
        ("stage3_param_persistence_threshold", 0.01),
    ],
)
def test_buckets_of_ones_own_are_followed(two, tmp_path, key, share):
    card = jobs.card_of("llama")
    layer = measure_footprint(card).layer_elements
    check(
        two,
        card,
        deepspeed_file(
            tmp_path, deepspeed_file_of("zero3"), stage3_max_reuse_distance=layer, **{key: int(share * layer)}
        ),
        "teach",
    )


RECOMPUTED = [("all", True, 1.4), ("all", True, 10**6), ("one", True, 1.4), ("all", False, 1.4), ("none", False, 1.4)]


@pytest.mark.parametrize(
    ("family", "recompute", "packed", "reach"),
    [
        *(("mxfp4", *case) for case in RECOMPUTED),
        *(pytest.param("llama", *case, marks=LONG) for case in RECOMPUTED),
        *(pytest.param("gpt_oss", *case, marks=LONG) for case in RECOMPUTED),
    ],
)
def test_recomputed_layers_and_the_plain_formulation(two, tmp_path, family, recompute, packed, reach):
    card = jobs.card_of(family)
    sizes = measure_footprint(card)
    layers = {"all": len(sizes.layers), "one": 1, "none": 0}[recompute]
    file = deepspeed_file(
        tmp_path, deepspeed_file_of("zero3"), stage3_max_reuse_distance=int(reach * sizes.layer_elements)
    )
    check(two, card, file, "distill", layers, packed)


@pytest.mark.parametrize("sharding", ["zero3", "zero3_hpz", "zero3_offload"])
@pytest.mark.parametrize(
    ("family", "dtype", "reach"),
    [
        ("llama", "float32", 1.4),
        ("mxfp4", "bfloat16", 10**6),
        pytest.param("llama", "float32", 10**6, marks=LONG),
        pytest.param("mxfp4", "bfloat16", 1.4, marks=LONG),
        pytest.param("gpt_oss", "bfloat16", 1.4, marks=LONG),
        pytest.param("gpt_oss", "bfloat16", 10**6, marks=LONG),
    ],
)
def test_two_nodes_of_two_ranks(four, tmp_path, project, sharding, family, dtype, reach):
    card = jobs.card_of(family, dtype)
    base = deepspeed_file_of(sharding) if sharding != "zero3_offload" else str(project / "ds_configs/cpu.json")
    file = deepspeed_file(tmp_path, base, stage3_max_reuse_distance=int(reach * measure_footprint(card).layer_elements))
    last = check(four, card, file, "distill", ranks_per_node=2)[-1]
    if sharding == "zero3_hpz":
        assert last[1] > 0 and last[2] == 0, "secondary shards keep gathers inside the node"
    else:
        assert last[2] == 2 * last[1], "two of three other shards lie on the other node"


def released(folder: Path, head: str, **keys: Any) -> BackboneCard:
    """A llama's folder whose head is "apart" from the embedding, "tied" to it, or its own "against config.json"."""
    config = AutoConfig.for_model(**copy.deepcopy({**jobs.LLAMA, "tie_word_embeddings": head != "apart", **keys}))
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    if head == "against config.json":
        weights = load_file(folder / "model.safetensors")
        weights["lm_head.weight"] = torch.randn_like(weights["model.embed_tokens.weight"])
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return BackboneCard(name="released", path=str(folder), tokenizer="unused", dtype="float32")


@pytest.mark.parametrize("head", ["apart", "tied", "against config.json"])
def test_embedding_rows_from_the_file_are_not_gathered(two, tmp_path, head):
    card = released(tmp_path, head)
    sizes = measure_footprint(card)
    assert sizes.rows_from_file and (sizes.head == 0) == (head == "tied")
    from_file = check(two, card, deepspeed_file_of("zero3"), "distill")[-1]
    check(two, card, deepspeed_file_of("zero3"), "teach", recompute=2)
    gathered = check(two, jobs.card_of("llama"), deepspeed_file_of("zero3"), "distill")[-1]
    assert gathered[2] - from_file[2] == sizes.embedding // 2  # a shared table is gathered for the head alone


@pytest.mark.parametrize("sharding", ["zero3", "zero3_hpz", "zero3_offload"])
def test_a_tied_release_on_two_nodes_of_two_ranks(four, tmp_path, project, sharding):
    (tmp_path / "m").mkdir()
    card = released(tmp_path / "m", "tied")
    base = deepspeed_file_of(sharding) if sharding != "zero3_offload" else str(project / "ds_configs/cpu.json")
    reach = int(1.4 * measure_footprint(card).layer_elements)
    check(four, card, deepspeed_file(tmp_path, base, stage3_max_reuse_distance=reach), "distill", ranks_per_node=2)


@pytest.mark.parametrize(
    ("family", "more"), [("biogpt", {}), ("gemma", {"num_key_value_heads": 2, "head_dim": 8, "intermediate_size": 48})]
)
def test_tables_that_scale_their_rows_are_gathered(two, tmp_path, family, more):
    keys = {k: jobs.LLAMA[k] for k in ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads")}
    config = AutoConfig.for_model(family, **keys, **more, max_position_embeddings=256, pad_token_id=0)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    card = BackboneCard(name="released", path=str(tmp_path), tokenizer="unused", dtype="float32")
    assert not measure_footprint(card).rows_from_file
    check(two, card, deepspeed_file_of("zero3"), "distill", packed=False)


@pytest.mark.parametrize(("family", "nodes"), [("llama", 1), pytest.param("gpt_oss", 2, marks=LONG)])
def test_a_machine_is_measured_through_its_ranks_and_its_file_is_read(two, tmp_path, family, nodes):
    from engine.distributed.hardware import OVERLAPPED, read_kind

    first, second = two.run("calibrated", family=family, nodes=nodes, file=str(tmp_path / "mine.yaml"))
    assert first == second, "every rank agrees on the slowest"
    assert first["memory_bytes"] == (8 << 30) / (2 // nodes), "the smallest that a rank found free"
    found = asdict(read_kind(str(tmp_path / "mine.yaml")))
    assert (
        found.keys() == first.keys()
        and found["overlap"] == dict.fromkeys(OVERLAPPED, 0.0)
        and found["reach"] == first["reach"]
    )
    for key in ("memory", "memory_bytes", "pcie", "intra", "network", "latency", "entering"):
        assert found[key] > 0 and found[key] == pytest.approx(first[key], rel=1e-3)
    assert found["latency"] < 0.1 and found["entering"] < 0.1 and found["flops"]["float32"] > 1e6
