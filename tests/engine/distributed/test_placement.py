"""Where a backbone goes on which machine, how much is recomputed, and what ``plan`` says of it."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import train
from backbones import load_backbone_card
from backbones.tracing.sizes import ModelFootprint, measure_footprint
from engine.config.schema import RunConfig
from engine.core.errors import UserError
from engine.distributed.machine import Machine, free_host_bytes, machine_here
from engine.distributed.placement import (
    FILES,
    USABLE,
    MemoryEstimate,
    MicroBatchShape,
    choose_sharding,
    deepspeed_file_of,
    estimate_memory,
    possible_shardings,
    sharding_of_file,
)
from engine.distributed.zero3 import zero_config
from engine.planning.flags import machine_of

GB = 10**9
ONE, NODE, CLUSTER = (
    Machine(1, 1, "cuda", 80 * GB, 256 * GB),
    Machine(1, 8, "cuda", 80 * GB, 1000 * GB),
    Machine(4, 8, "cuda", 80 * GB, 1000 * GB),
)
WORK = MicroBatchShape(8192, 1000, 200_000_000)


@pytest.fixture(scope="module")
def llama(project: Path) -> ModelFootprint:
    return measure_footprint(load_backbone_card(project / "configs/llama31_8b/shape.yaml"))


@pytest.fixture(scope="module")
def gpt_oss(project: Path) -> ModelFootprint:
    return measure_footprint(load_backbone_card(project / "configs/gpt_oss_20b/shape.yaml"))


def test_the_named_backbones_have_their_released_sizes(llama: ModelFootprint, gpt_oss: ModelFootprint) -> None:
    assert llama.numbers == 8_030_261_248 and llama.weights == 2 * llama.numbers  # as the model card counts them
    assert gpt_oss.numbers == 20_914_757_184
    experts = 24 * 32 * (5760 * 2880 + 2880 * 2880)  # numbers in MXFP4
    assert gpt_oss.weights == 2 * (gpt_oss.numbers - experts) + experts * 17 // 32
    assert gpt_oss.weights / (2 * gpt_oss.numbers) < 0.34  # of bf16's bytes


@pytest.mark.parametrize(
    ("machine", "wanted"),
    [
        (ONE, "replicated"),
        (replace(ONE, device_bytes=24 * GB), "replicated"),
        (replace(ONE, device_bytes=18 * GB), "zero3_offload"),
        (replace(NODE, device_bytes=18 * GB), "zero3"),
        (replace(CLUSTER, device_bytes=18 * GB), "zero3_hpz"),
        (Machine(4, 1, "cuda", 18 * GB, 64 * GB), "zero3"),
        (Machine(1, 2, "cpu", 0, 60 * GB), "replicated"),
        (Machine(1, 2, "cpu", 0, 42 * GB), "zero3"),
    ],
)
def test_auto_takes_the_fastest_that_fits(llama: ModelFootprint, machine: Machine, wanted: str) -> None:
    work = replace(WORK, tokens=1024)
    found = choose_sharding(llama, asked="auto", recompute="auto", work=work, m=machine)
    assert found.sharding == wanted and found.fits(machine)
    for faster in possible_shardings(machine, "auto"):
        if faster == wanted:
            break
        assert not estimate_memory(llama, sharding=faster, recompute=len(llama.layers), work=work, m=machine).fits(
            machine
        )


def test_on_cpus_freed_blocks_count_recomputed_or_not_and_large_ones_do_not(llama: ModelFootprint) -> None:
    def freed(tokens: int, recompute: int, answers: int = 10) -> float:
        return estimate_memory(
            llama,
            sharding="replicated",
            recompute=recompute,
            work=MicroBatchShape(tokens, answers, 0),
            m=Machine(1, 1, "cpu", 0, GB),
        ).parts["freed, kept by the allocator"][0]

    assert (
        freed(500, 32)
        == freed(500, 0)
        > 0.5
        * estimate_memory(llama, sharding="replicated", recompute=0, work=MicroBatchShape(500, 10, 0), m=ONE).parts[
            "activations"
        ][0]
    )
    assert 0 < freed(2000, 0) < 4 * 0.7 * freed(500, 0)  # the inner layer's blocks are above 32 MiB
    assert (
        freed(3000, 0) == freed(2100, 0) == pytest.approx(0.7 * 24 * llama.vocabulary * 10)
        and freed(3000, 0, answers=100) == 0
    )
    assert (
        "freed, kept by the allocator"
        not in estimate_memory(llama, sharding="replicated", recompute=0, work=WORK, m=ONE).parts
    )


def test_as_few_layers_are_recomputed_as_fit(llama: ModelFootprint) -> None:
    budgets = [int(x * GB) for x in (80, 40, 30, 25, 22)]
    found = [
        choose_sharding(llama, asked="replicated", recompute="auto", work=WORK, m=replace(ONE, device_bytes=b))
        for b in budgets
    ]
    counts = [n.recompute for n in found]
    assert counts == sorted(counts) and counts[0] == 0 and 0 < counts[1] < 32
    for n, budget in zip(found, budgets, strict=True):
        machine = replace(ONE, device_bytes=budget)
        assert n.fits(machine) == (n.device <= USABLE * budget)
        if n.recompute > 0 and n.fits(machine):
            assert not estimate_memory(
                llama, sharding="replicated", recompute=n.recompute - 1, work=WORK, m=machine
            ).fits(machine)
    assert (
        choose_sharding(
            llama, asked="replicated", recompute="none", work=WORK, m=replace(ONE, device_bytes=30 * GB)
        ).recompute
        == 0
    )
    assert choose_sharding(llama, asked="replicated", recompute="all", work=WORK, m=ONE).recompute == 32


def test_where_nothing_fits_the_least_is_taken_and_said(llama: ModelFootprint) -> None:
    small = Machine(1, 1, "cuda", GB, 4 * GB)
    found = choose_sharding(llama, asked="auto", recompute="auto", work=WORK, m=small)
    assert not found.fits(small) and found.sharding == "zero3_offload" and found.recompute == 32 and found.offloaded


def test_of_very_long_samples_the_layers_inputs_wait_on_the_host(llama: ModelFootprint) -> None:
    found = choose_sharding(
        llama,
        asked="auto",
        recompute="auto",
        work=MicroBatchShape(32768, 1000, 1),
        m=replace(ONE, device_bytes=40 * GB),
    )
    assert (
        found.sharding == "replicated"
        and found.offloaded
        and found.parts["layers' inputs"] == (0, 32 * 32768 * 4096 * 2)
    )
    assert not estimate_memory(
        llama,
        sharding="replicated",
        recompute=32,
        work=MicroBatchShape(32768, 1000, 1),
        m=replace(ONE, device_bytes=40 * GB),
    ).fits(replace(ONE, device_bytes=40 * GB))
    assert choose_sharding(llama, asked="replicated", recompute="all_offloaded", work=WORK, m=ONE).offloaded
    assert not choose_sharding(
        llama,
        asked="replicated",
        recompute="auto",
        work=MicroBatchShape(10**6, 1, 1),
        m=Machine(1, 1, "cpu", 0, 40 * GB),
    ).offloaded  # the same memory


def test_what_a_placement_costs(gpt_oss: ModelFootprint) -> None:
    shards = {
        p: estimate_memory(gpt_oss, sharding=p, recompute=0, work=WORK, m=CLUSTER).parts["weights"] for p in FILES
    }
    assert shards["replicated"] == (gpt_oss.weights, 0) and shards["zero3"] == (gpt_oss.weights / 32, 0)
    assert shards["zero3_hpz"][0] == pytest.approx(gpt_oss.weights * (1 / 32 + 1 / 8))
    assert (
        shards["zero3_offload"][0] == 0 and 1 <= shards["zero3_offload"][1] / (gpt_oss.weights / 32) <= 2
    )  # pinned blocks are powers of two


@pytest.mark.parametrize("name", [n for n, file in FILES.items() if file])
def test_a_placement_s_file_is_that_placement(name: str, project: Path) -> None:
    card = load_backbone_card(project / "configs/tiny/llama.yaml")
    assert (
        sharding_of_file(
            zero_config(deepspeed_file_of(name), card, sizes=measure_footprint(card), ranks_per_node=4)[
                "zero_optimization"
            ]
        )
        == name
    )


def test_secondary_shards_span_a_node(project: Path) -> None:
    card = load_backbone_card(project / "configs/tiny/llama.yaml")
    assert (
        zero_config(deepspeed_file_of("zero3_hpz"), card, sizes=measure_footprint(card), ranks_per_node=8)[
            "zero_optimization"
        ]["zero_hpz_partition_size"]
        == 8
    )


def test_a_control_group_bounds_what_is_free(tmp_path: Path) -> None:
    proc, groups = tmp_path / "proc", tmp_path / "cgroup"
    (proc / "self").mkdir(parents=True)
    (groups / "job/step").mkdir(parents=True)
    (proc / "meminfo").write_text("MemTotal: 9000 kB\nMemAvailable:    8000 kB\n")
    assert free_host_bytes(proc, groups) == 8000 * 1024  # no control groups here
    (proc / "self/cgroup").write_text("0::/job/step\n")
    (groups / "job/step/memory.max").write_text("max\n")
    assert free_host_bytes(proc, groups) == 8000 * 1024
    for name, text in (
        ("memory.max", "4096000"),
        ("memory.current", "1000000"),
        ("memory.stat", "anon 5\ninactive_file 96000\n"),
    ):
        (groups / "job" / name).write_text(text)
    assert free_host_bytes(proc, groups) == 4096000 - 1000000 + 96000


def test_this_machine() -> None:
    import torch

    found = machine_here(torch.device("cpu"))
    assert (found.nodes, found.ranks_per_node, found.device, found.device_bytes) == (
        1,
        1,
        "cpu",
        0,
    ) and found.host_bytes > 10**8


@pytest.mark.parametrize(("flags", "wanted"), [(("0", "x", "-1", "64"), 3), (("1.5", "2", "80", "64"), 1)])
def test_a_machine_that_is_none(flags: tuple[str, ...], wanted: int) -> None:
    with pytest.raises(UserError) as error:
        machine_of(*flags)
    assert len(error.value.problems) == wanted


def run_plan(*flags: str) -> dict[str, Any]:
    output = flags[-1]
    train.main(["plan", *flags[:-1], f"--output={output}"])
    return json.loads(Path(output).read_text())  # type: ignore[no-any-return]


@pytest.mark.slow
def test_plan_from_the_command_line(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project)
    config, shape = "--config=configs/gpt_oss_20b/distill.yaml", "--backbone=configs/gpt_oss_20b/shape.yaml"
    found = run_plan(
        config, shape, "--nodes=4", "--gpus_per_node=8", "--gpu_gb=80", "--host_gb=1000", str(tmp_path / "plan.json")
    )
    text = capsys.readouterr().out
    assert (
        "20.91 billion numbers, 13.76 GB as loaded (bfloat16, experts MXFP4), 24 layers" in text
        and "chosen: replicated" in text
    )
    assert (
        found["chosen"] == "replicated"
        and found["fits"]
        and set(found["shardings"]) == {"replicated", "zero3_hpz", "zero3", "zero3_offload"}
    )
    for p in found["shardings"].values():
        assert p["device_bytes"] == pytest.approx(sum(d for d, _ in p["parts"].values()), abs=10)
    small = run_plan(config, shape, "--gpu_gb=16", "--host_gb=64", str(tmp_path / "small.json"))
    assert small["chosen"] == "zero3_offload" and not small["shardings"]["replicated"]["fits"]
    with pytest.raises(SystemExit) as end:
        run_plan(config, shape, "--sharding=zero3", "--gpu_gb=8", str(tmp_path / "asked.json"))
    asked = json.loads((tmp_path / "asked.json").read_text())
    assert end.value.code == 3
    assert (
        asked["chosen"] == "zero3"
        and not asked["fits"]
        and "asked for: zero3, but needs more than the 92%" in capsys.readouterr().out
    )


def test_plan_refuses_what_a_run_would(
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project)
    for flags, wanted in (
        (["--nodes=none"], "--nodes: must be a whole number >= 1; got 'none'"),
        (["--max_tokens_per_micro_batch=0"], "max_tokens_per_micro_batch: must be > 0; got 0"),
    ):
        with pytest.raises(SystemExit) as end:
            train.main(["plan", "--config=configs/demo/distill.yaml", *flags])
        assert end.value.code == 2 and wanted in capsys.readouterr().err


def test_a_config_s_largest_micro_batch_holds_its_longest_sample() -> None:
    from engine.distributed.placement import micro_batch_shape

    config = RunConfig(max_tokens_per_micro_batch=100)
    config.data.max_length, config.prompt.num_virtual_tokens = 500, 20
    sizes = ModelFootprint(1, 8, 10, 2, 1, 1, 1, (1,), 1, 1, (1,), 1, 1, (0, 0))
    assert micro_batch_shape(config, sizes).tokens == 520


def test_the_line_of_a_run_has_no_part_that_rounds_to_nothing() -> None:
    pocket = MemoryEstimate("zero3_offload", 0, False, {"weights": (0, 4_354_944), "activations": (2.5e8, 0)})
    assert pocket.line() == (
        "sharding zero3_offload: predicted 0.25 GB on a rank's device and 4.35 MB on its host (GB: activations 0.25)"
    )
    resident = MemoryEstimate("replicated", 2, False, {"weights": (16e9, 0), "freed, or not": (1e9, 0)})
    assert resident.line() == (
        "sharding replicated, 2 layers recomputed: predicted 17.00 GB on a rank's device "
        "(GB: weights 16.00; freed, or not 1.00)"
    )
