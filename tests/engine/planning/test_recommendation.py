"""What ``plan`` recommends: the fastest of what fits, a run's own choice under the flags, remedies that fit."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engine import distributed
from engine.config.loader import resolve
from engine.config.schema import RunConfig, schema_keys
from engine.distributed.hardware import read_kind
from engine.distributed.machine import Machine
from engine.planning.flags import assumed_of
from engine.planning.planner import WORTH_TELLING, Planner
from engine.planning.recommendation import recommend
from engine.planning.remedies import Remedy, remedies
from engine.training.context import RunContext

pytestmark = pytest.mark.slow

GB = 10**9
MACHINE_FLAGS = ("--nodes", "--gpus_per_node", "--gpu_gb", "--host_gb")


@pytest.fixture(scope="module")
def planner(run_context: RunContext, llama: RunConfig) -> Planner:
    return Planner(run_context, mode="distill", device=read_kind("l40s"), assumed=assumed_of(llama))


def with_flags(config: RunConfig, flags: tuple[str, ...], project: Path) -> RunConfig:
    """The configuration that a run has under the flags."""
    overrides = {"backbone": config.backbone, "data.root": ""}
    for key in ("sharding", "max_tokens_per_micro_batch", "activation_checkpointing"):
        overrides[key] = str(getattr(config, key))
    for flag in flags:
        key, _, text = flag.removeprefix("--").partition("=")
        if key in schema_keys():
            overrides[key] = text
    return resolve(str(project / "configs/llama31_8b/distill.yaml"), overrides)


def test_no_row_of_the_plan_s_own_table_is_faster_than_what_it_recommends(
    planner: Planner, llama: RunConfig, project: Path
) -> None:
    """A single L40S: the micro-batch as written makes 20 layers be recomputed."""
    machine = Machine(1, 1, "cuda", 48 * GB, 256 * GB)
    case = planner.case(llama, machine)
    found = recommend(planner, llama, machine)
    assert found.option is not None and found.option.case.need.fits(machine)
    assert found.option.flags and case.node_hours > found.option.case.node_hours * WORTH_TELLING
    of_setting = [k for k in planner.knobs(case) if k["key"] in ("sharding", "max_tokens_per_micro_batch")]
    assert of_setting
    for knob in of_setting:
        assert found.option.case.node_hours <= knob["node_hours"] * WORTH_TELLING
    # a run under these flags makes the same choice
    run = with_flags(llama, found.option.flags, project)
    need = distributed.choose_sharding(
        planner.sizes,
        asked=distributed.requested_sharding(run),
        recompute=run.activation_checkpointing,
        work=distributed.micro_batch_shape(run, planner.sizes),
        m=machine,
    )
    assert need == found.option.case.need and run.max_tokens_per_micro_batch == found.option.tokens
    again = recommend(planner, replace(llama, max_tokens_per_micro_batch=found.option.tokens), machine)
    assert again.option is not None and again.option.flags == ()


def machine_with(machine: Machine, flags: tuple[str, ...]) -> Machine:
    """The machine that the flags name."""
    names = {
        "--nodes": "nodes",
        "--gpus_per_node": "ranks_per_node",
        "--gpu_gb": "device_bytes",
        "--host_gb": "host_bytes",
    }
    changes: dict[str, Any] = {}
    for flag in flags:
        name, _, text = flag.partition("=")
        if name in names:
            changes[names[name]] = int(text) * (GB if name.endswith("_gb") else 1)
    return replace(machine, **changes)


def test_settings_together_come_before_memory_which_stays_below_the_card_s(planner: Planner, llama: RunConfig) -> None:
    """Eight L40S, of which 12 GB each are free: whole on each device is far too much."""
    machine = Machine(1, 8, "cuda", 12 * GB, 256 * GB)
    config = replace(llama, sharding="replicated", activation_checkpointing="none")
    found = remedies(planner, config, machine)
    keys = [flag.partition("=")[0] for flag in found[0].flags]
    assert "--sharding" in keys and "--activation_checkpointing" in keys and not found[0].memory
    assert [remedy.memory for remedy in found] == sorted(remedy.memory for remedy in found)
    (memory,) = [remedy for remedy in found if remedy.memory]
    assert memory.words == f"a GPU with at least {memory.machine.device_bytes // GB} GB of free memory"
    assert memory.as_json()["flags"] == [] and memory.text().startswith(memory.words)
    # up to what the card has, it is a flag
    small = remedies(planner, replace(llama, sharding="replicated"), machine)
    assert any(r.memory and not r.words and r.machine.device_bytes <= 48 * GB for r in small), small


def test_cpu_ranks_are_told_the_least_memory_that_a_host_needs(planner: Planner, llama: RunConfig) -> None:
    machine = Machine(1, 1, "cpu", 0, 8 * GB)
    least = planner.need(llama, machine)
    (memory,) = [remedy for remedy in remedies(planner, llama, machine) if remedy.memory]
    assert memory.machine.host_bytes - GB <= (least.device + least.host) / distributed.USABLE


@pytest.mark.parametrize(
    ("machine", "changes", "wanted"),
    [
        (Machine(1, 1, "cuda", 48 * GB, 256 * GB), {"max_tokens_per_micro_batch": 262144, "sharding": "replicated"}, 2),
        (Machine(1, 1, "cuda", 16 * GB, 256 * GB), {"sharding": "replicated"}, 3),
        (Machine(1, 1, "cuda", 16 * GB, 8 * GB), {}, 1),
        (Machine(1, 1, "cuda", 6 * GB, 8 * GB), {"activation_checkpointing": "none", "sharding": "replicated"}, 1),
        (Machine(1, 1, "cuda", 6 * GB, 8 * GB), {}, 1),
        (Machine(1, 2, "cpu", 0, 16 * GB), {}, 1),
    ],
    ids=["tokens", "weights", "host", "small", "both", "cpu"],
)
def test_every_remedy_fits_when_it_is_planned_anew(
    planner: Planner, llama: RunConfig, project: Path, machine: Machine, changes: dict[str, Any], wanted: int
) -> None:
    config = replace(llama, **changes)
    assert not planner.need(config, machine).fits(machine)
    found: list[Remedy] = remedies(planner, config, machine)
    assert len(found) >= wanted, [remedy.text() for remedy in found]
    for remedy in found:
        own, other = with_flags(config, remedy.flags, project), machine_with(machine, remedy.flags)
        need = planner.need(own, other)
        assert need.fits(other) and need == remedy.need and other == remedy.machine, remedy.text()
