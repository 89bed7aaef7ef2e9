"""The paragraph of a plan: what it says of micro-batches, of ranks without samples, and of what would fit."""

from dataclasses import replace

import pytest

from engine.config.schema import RunConfig
from engine.distributed.hardware import read_kind
from engine.distributed.machine import Machine
from engine.planning.flags import assumed_of
from engine.planning.planner import Planner
from engine.planning.recommendation import recommend
from engine.planning.remedies import remedies
from engine.planning.summary import Found, summary_lines
from engine.training.context import RunContext

pytestmark = pytest.mark.slow

GB = 10**9


def paragraph(run_context: RunContext, config: RunConfig, machine: Machine, gpu: str = "") -> str:
    planner = Planner(run_context, "distill", read_kind(gpu) if gpu else None, assumed_of(config))
    need = planner.need(config, machine)
    case = planner.case(config, machine) if gpu else None
    recommended = recommend(planner, config, machine) if gpu else None
    changes = [] if need.fits(machine) else remedies(planner, config, machine)
    return " ".join(" ".join(summary_lines(planner, config, machine, Found(need, case, recommended, changes))).split())


def test_ranks_without_a_sample_are_told_and_not_recommended(run_context: RunContext, llama: RunConfig) -> None:
    text = paragraph(run_context, llama, Machine(100, 8, "cuda", 80 * GB, 256 * GB), "h100")
    assert "A distillation step has 32 samples for 800 GPUs; at least 768 have none." in text
    tasks = len(llama.distill.tasks)
    samples = tasks * llama.teach.batch_size
    assert f"A teaching step has {samples} samples for 800 GPUs; at least {800 - samples} have none." in text
    assert "Use fewer nodes or a larger teach.batch_size and distill.batch_size." in text
    assert "as written" not in text
    full = paragraph(run_context, llama, Machine(1, 8, "cuda", 80 * GB, 256 * GB), "h100")
    assert "have none" not in full


def test_a_longest_sample_beyond_the_micro_batch_is_told(run_context: RunContext, llama: RunConfig) -> None:
    machine = Machine(1, 8, "cuda", 80 * GB, 256 * GB)
    longest = llama.data.max_length + llama.prompt.num_virtual_tokens
    text = paragraph(run_context, replace(llama, max_tokens_per_micro_batch=100), machine)
    assert (
        f"in micro-batches of up to {longest:,} tokens: the longest sample (data.max_length + prompt) exceeds "
        "max_tokens_per_micro_batch, 100; "
    ) in text
    assert "exceeds" not in paragraph(run_context, llama, machine)


def test_times_of_cpu_ranks_need_a_calibrated_file(run_context: RunContext, llama: RunConfig) -> None:
    text = paragraph(run_context, llama, Machine(1, 1, "cpu", 0, 1024 * GB))
    assert "For times, name a machine file calibrated on CPU ranks" in text and "h100" not in text


def test_one_change_that_would_fit_is_named_once(run_context: RunContext, llama: RunConfig) -> None:
    """Memory alone helps here: it is no setting, so it is not recommended."""
    text = paragraph(run_context, llama, Machine(1, 1, "cuda", 6 * GB, 8 * GB), "l40s")
    assert "This would fit: GPUs with at least " in text and "Each of these" not in text
    assert "Recommended" not in text and "--gpu_gb" not in text and "--host_gb" not in text


def test_memory_is_never_recommended(run_context: RunContext, llama: RunConfig) -> None:
    config = replace(llama, sharding="replicated", activation_checkpointing="none")
    text = paragraph(run_context, config, Machine(1, 8, "cuda", 12 * GB, 256 * GB), "l40s")
    assert "Each of these would fit: --" in text and "a GPU with at least " in text
    recommended = text.partition("Recommended: ")[2]
    assert recommended.startswith("--") and "gpu_gb" not in recommended and "host_gb" not in recommended
