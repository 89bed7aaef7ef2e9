"""What ``plan`` says of time and scale: the model's limits, what it counts, and what it refuses."""

from dataclasses import replace
from pathlib import Path

import pytest

from backbones import PACKED_FAMILIES, BackboneCard, load_backbone_card
from backbones.tracing.gathers import Gathered
from backbones.tracing.module_trace import KINDS, trace
from backbones.tracing.sizes import ModelFootprint, measure_footprint
from engine.config.loader import resolve
from engine.config.schema import RunConfig
from engine.distributed.hardware import OVERLAPPED, DeviceKind, read_kind
from engine.distributed.machine import Machine
from engine.distributed.placement import (
    MicroBatchShape,
    choose_sharding,
    deepspeed_file_of,
    estimate_memory,
    micro_batch_shape,
)
from engine.distributed.zero3 import zero_config
from engine.planning.cost_model import combined, gather_seconds, passes
from engine.planning.flags import Sweep, assumed_of
from engine.planning.planner import Planner
from engine.planning.sweep import scaling
from engine.planning.zero3_simulator import Coordinator, rules_of
from engine.telemetry.flops import model_operations, utilisation
from engine.training.context import RunContext

pytestmark = pytest.mark.slow

GB = 10**9
NODE, CLUSTER = Machine(1, 8, "cuda", 80 * GB, 1000 * GB), Machine(4, 8, "cuda", 80 * GB, 1000 * GB)
ALL = dict.fromkeys(OVERLAPPED, 1.0)


@pytest.fixture(scope="module")
def config(project: Path) -> RunConfig:
    flags = {"backbone": str(project / "configs/gpt_oss_20b/shape.yaml"), "data.root": "", "distill.steps": "50"}
    return resolve(str(project / "configs/gpt_oss_20b/distill.yaml"), flags)


@pytest.fixture(scope="module")
def run_context(config: RunConfig) -> RunContext:
    return RunContext(config)


@pytest.fixture(scope="module")
def h100() -> DeviceKind:
    return read_kind("h100")


@pytest.fixture()
def planner(run_context: RunContext, config: RunConfig, h100: DeviceKind) -> Planner:
    return Planner(run_context, mode="distill", device=h100, assumed=assumed_of(config))


# ---- terms
# -----------------------------------------------------------------------------------------------------------------


def test_what_overlaps_counts_once_and_what_does_not_is_added() -> None:
    terms = {"compute": 4.0, "memory": 1.0, "gather": 3.0, "transfer": 0.5, "host": 0.25}
    assert (
        combined(terms, 0.125, ALL).total == 5.125
    )  # products, what else the device's kernels do, and the first layer's gather
    assert combined(terms, 0.125, dict.fromkeys(OVERLAPPED, 0.0)).total == sum(terms.values())
    assert combined(terms, 0.0, ALL | {"gather": 0.5}).total == 6.5
    assert (
        combined(terms | {"gather": 9.0}, 0.0, ALL).total == 9.0
        and combined(terms | {"gather": 9.0}, 0.0, ALL).binding == "gather"
    )


def test_a_ring_brings_into_a_node_once_what_lies_on_others() -> None:
    brought = Gathered(1, 7 * GB, 24 * GB, 0)
    assert (
        gather_seconds(brought, m=CLUSTER, intra=31 * GB, network=1000 * GB) == 1.0
    )  # in the node everything passes every rank
    assert gather_seconds(brought, m=CLUSTER, intra=1000 * GB, network=12 * GB) == 2.0
    assert (
        gather_seconds(Gathered(1, 0, 3 * GB, 0), m=Machine(4, 1, "cuda", 1, 1), intra=1.0, network=GB) == 3.0
    )  # no other rank in the node


def test_a_recomputed_layer_goes_forward_once_more() -> None:
    assert (
        passes("train", 0) == (1, 1)
        and passes("train", 1) == (2, 1)
        and passes("train_with_teacher", 0.5) == (2.5, 1)
        and passes("forward", 1) == (1, 0)
    )


def test_mfu_counts_four_operations_a_number_and_real_token(run_context: RunContext) -> None:
    sizes = run_context.sizes
    assert model_operations(sizes, 10.0) == 40 * sizes.active
    assert (
        utilisation(sizes, real_tokens_per_s=100.0, peak=4 * sizes.active * 50.0, ranks=4) == 0.5
        and utilisation(sizes, real_tokens_per_s=100.0, peak=None, ranks=4) is None
    )
    # the model card's 3.6 billion active numbers of gpt-oss-20B are these and the head
    assert (
        sizes.active == 24 * (2 * 2880 * 4096 + 2 * 2880 * 512 + 2880 * 32 + 4 * 3 * 2880 * 2880)
        and 3.55e9 < sizes.active + 201088 * 2880 < 3.65e9
    )
    assert sizes.experts == (32, 4) and sizes.queries == 64 * 64


def test_a_dense_backbone_s_active_numbers_are_its_linears(project: Path) -> None:
    sizes = measure_footprint(load_backbone_card(project / "configs/llama31_8b/shape.yaml"))
    assert (
        sizes.active == 32 * (2 * 4096 * 4096 + 2 * 4096 * 1024 + 3 * 4096 * 14336)
        and sizes.experts == (1, 1)
        and sizes.queries == 4096
    )


# ---- gathers
# ---------------------------------------------------------------------------------------------------------------


def card_of_family(family: str) -> BackboneCard:
    keys = {
        "model_type": family,
        "vocab_size": 512,
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "pad_token_id": 300,
    }
    return BackboneCard(name=family, random=keys, tokenizer="unused", dtype="float32")


@pytest.mark.parametrize("recompute", [0, 2])
@pytest.mark.parametrize("family", PACKED_FAMILIES)
def test_the_twin_of_every_family_has_the_backbone_s_modules(family: str, recompute: int) -> None:
    card = card_of_family(family)
    found = trace(card, recompute)
    known = {name for name, _, _ in measure_footprint(card).parameters}
    assert {name for module in found.modules for name in module} == known
    for kind in KINDS:
        entered = [v.module for v in found.visits[kind] if v.enters]
        touched = {name for module in entered for name in found.modules[module]}
        assert touched == known if kind != "embed" else len(touched) == 1
    again = [v for v in found.visits["train"] if v.again]
    assert bool(again) == bool(recompute)


def test_a_large_backbone_gathers_layers_twice_but_for_those_that_are_used_again_soon(
    planner: Planner, config: RunConfig, run_context: RunContext
) -> None:
    sizes = run_context.sizes
    brought = planner.gathered(config, CLUSTER, planner.need(config, CLUSTER, "zero3"))
    everything = (sizes.moved - sizes.rows_from_file * sizes.embedding) * 31 / 32
    assert (
        everything - 5 * max(sizes.layers) < brought.bytes < everything
    )  # DeepSpeed keeps what is used again within a billion elements
    assert brought.inter == pytest.approx(brought.intra * 24 / 7)
    inside = planner.gathered(config, CLUSTER, planner.need(config, CLUSTER, "zero3_hpz"))
    assert inside.inter == 0 and inside.intra == pytest.approx(brought.bytes * (7 / 8) / (31 / 32), rel=1e-5)
    assert planner.gathered(config, CLUSTER, planner.need(config, CLUSTER, "replicated")) == Gathered()
    offloaded = planner.gathered(config, CLUSTER, planner.need(config, CLUSTER, "zero3_offload"))
    assert offloaded.uploaded == pytest.approx(offloaded.bytes / 31) and offloaded.bytes == brought.bytes
    asked = planner.gathered(config, CLUSTER, planner.need(config, CLUSTER, "zero3"), "train_with_teacher")
    assert 1.3 < asked.bytes / brought.bytes < 1.6  # the teacher's forward pass takes the layers once more


@pytest.mark.parametrize("name", ["llama31_8b", "gpt_oss_20b"])
def test_memory_counts_what_deepspeed_keeps_whole(project: Path, name: str) -> None:
    card = load_backbone_card(project / f"configs/{name}/shape.yaml")
    sizes = measure_footprint(card)
    rules = rules_of(zero_config(deepspeed_file_of("zero3"), card, sizes, ranks_per_node=8), CLUSTER)
    coordinator = Coordinator(sizes, trace=trace(card), rules=rules, machine=CLUSTER)
    coordinator.steady("train")
    found = estimate_memory(sizes, sharding="zero3", recompute=0, work=MicroBatchShape(1000, 100, 1), m=CLUSTER).parts[
        "gathered"
    ][0]
    assert found == pytest.approx(coordinator.most_whole, rel=0.05)
    assert (
        "gathered"
        not in estimate_memory(
            sizes, sharding="zero3", recompute=0, work=MicroBatchShape(1000, 100, 1), m=Machine(1, 1, "cpu", 0, 10**11)
        ).parts
    )  # a parameter is its own shard


# ---- a whole plan
# ----------------------------------------------------------------------------------------------------------


def test_with_boundless_links_compute_binds_and_with_a_slow_one_gathers_do(
    planner: Planner, config: RunConfig, h100: DeviceKind
) -> None:
    planner.device = replace(h100, network=1e18, intra=1e18, pcie=1e18, memory=1e18, latency=1e-12, entering=1e-12)
    fast = planner.case(config, CLUSTER, "zero3")
    for stage in fast.stages:
        assert stage.step.binding == "compute" and stage.step.total == pytest.approx(
            stage.step.terms["compute"], rel=1e-3
        )
        assert stage.mfu is not None and 0 < stage.mfu <= h100.reach["compute"]
    planner.device = replace(h100, network=1e9)
    slow = planner.case(config, CLUSTER, "zero3")
    assert all(s.step.binding == "gather" for s in slow.stages) and slow.node_hours > 5 * fast.node_hours
    resident = planner.case(config, CLUSTER, "replicated")
    assert all(s.gathered == Gathered() for s in resident.stages) and resident.node_hours < 0.2 * slow.node_hours


@pytest.mark.parametrize("what", ["network", "intra", "memory", "pcie"])
def test_a_faster_link_never_slows_a_step(planner: Planner, config: RunConfig, h100: DeviceKind, what: str) -> None:
    before = None
    for factor in (0.01, 0.1, 1, 10):
        planner.device = replace(h100, **{what: getattr(h100, what) * factor})
        found = planner.case(config, CLUSTER, "zero3_offload").node_hours
        assert before is None or found <= before
        before = found


def test_scaling_out_costs_efficiency_and_weak_scaling_costs_less(planner: Planner, config: RunConfig) -> None:
    points = scaling(planner, config, machine=NODE, sweep=Sweep("nodes", (1, 2, 4, 8)))
    speed = [p.of(p.strong).tokens_per_s for p in points]
    assert all(b <= a * 2.001 for a, b in zip(speed[:-1], speed[1:], strict=True))
    for n, point in enumerate(points):
        assert point.weak is not None and point.of(point.weak).tokens_per_s >= 0.95 * speed[n]
        weak, first = point.of(point.weak), points[0].of(points[0].strong)
        assert weak.work.examples == pytest.approx(first.work.examples * 2**n)


def test_the_largest_max_tokens_per_micro_batch_fits_and_a_larger_one_does_not(
    planner: Planner, config: RunConfig, run_context: RunContext
) -> None:
    machine = Machine(4, 8, "cuda", 24 * GB, 250 * GB)
    for name in ("replicated", "zero3", "zero3_offload"):
        found = planner.largest_budget(config, machine, name)
        for tokens, fits in ((found, True), (round(found * 1.01) + 1, False)):
            work = replace(micro_batch_shape(config, run_context.sizes), tokens=tokens, answers=tokens)
            assert (
                choose_sharding(
                    run_context.sizes, asked=name, recompute=config.activation_checkpointing, work=work, m=machine
                ).fits(machine)
                == fits
            ), (
                name,
                found,
            )
    assert planner.largest_budget(config, Machine(1, 1, "cuda", 2 * GB, 4 * GB), "replicated") == 0


def test_a_knob_s_number_is_the_model_s_own(planner: Planner, config: RunConfig) -> None:
    case = planner.case(config, CLUSTER)
    knobs = planner.knobs(case)
    assert {"max_tokens_per_micro_batch", "sharding", "nodes", "--network_gbs", "--nvlink_gbs"} <= {
        k["key"] for k in knobs
    }
    assert [k["times"] for k in knobs] == sorted((k["times"] for k in knobs), reverse=True)
    told = next(k for k in knobs if k["key"] == "nodes")
    again = planner.case(config, replace(CLUSTER, nodes=8))
    same = next(s for s in again.stages if s.work.name == case.main.work.name)
    assert told["tokens_per_s"] == same.tokens_per_s and told["node_hours"] == again.node_hours


def test_teachers_are_asked_each_time_or_kept_as_a_run_would_decide(
    run_context: RunContext, config: RunConfig, h100: DeviceKind
) -> None:
    kinds = {}
    for examples in ("60", "100000"):  # read often, read once
        planner = Planner(run_context, mode="distill", device=h100, assumed=assumed_of(config, examples=examples))
        distill = planner.case(config, NODE).stages[-1]
        kinds[examples] = distill.work.kind, bool(distill.work.forward)
    assert kinds == {"60": ("train", True), "100000": ("train_with_teacher", False)}


def test_lengths_come_from_the_token_cache_where_it_has_them(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, h100: DeviceKind
) -> None:
    monkeypatch.chdir(project)
    config = resolve("configs/demo/distill.yaml", {"data.cache": str(tmp_path / "tokens")})
    run_context = RunContext(config)
    assumed = Planner(run_context, mode="distill", device=h100, assumed=assumed_of(config))
    assert assumed.told.startswith("assumed: 192 tokens a sample, 12 of them answer")
    assumed.case(config, NODE)
    run_context.data({task: ["train", "validation"] for task in config.distill.tasks})
    known = Planner(run_context, mode="distill", device=h100, assumed=assumed_of(config))
    case = known.case(config, Machine(1, 1, "cuda", 80 * GB, 100 * GB))
    assert known.told.startswith("lengths of 3 tasks' samples from")
    teach = case.stages[0].work
    data = run_context.data({task: ["train"] for task in config.distill.tasks})
    lengths = [len(d.splits["train"].sample(i)) for d in data.values() for i in d.splits["train"].sample_indices]
    assert teach.examples == 12 and min(lengths) * 12 <= teach.real_tokens <= max(lengths) * 12 and teach.forward


def test_sizes_tell_every_parameter(run_context: RunContext) -> None:
    sizes: ModelFootprint = run_context.sizes
    assert (
        sum(n * b for _, n, b in sizes.parameters) == sizes.weights
        and tuple(n * b for _, n, b in sizes.parameters) == sizes.tensors
    )
