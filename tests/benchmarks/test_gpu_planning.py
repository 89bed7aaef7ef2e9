"""Which plan stands beside which measured step."""

from pathlib import Path

from benchmarks.gpu import parts
from benchmarks.planning.gpu import planned_flags
from engine.config.loader import resolve


def test_a_case_is_planned_with_the_flags_that_measured_it() -> None:
    command = [
        "train.py",
        "benchmark",
        "--config",
        "c.yaml",
        "--max_tokens_per_micro_batch=16384",
        "--invented",
        "90,10",
        "--steps",
        "4",
    ]
    command += ["--sweep", "distill.teacher_cache=auto,off"]
    assert planned_flags(command, "distill.teacher_cache=off") == [
        "--config",
        "c.yaml",
        "--max_tokens_per_micro_batch=16384",
        "--distill.teacher_cache=off",
    ]
    assert planned_flags(command, "max_tokens_per_micro_batch=4096") == [
        "--config",
        "c.yaml",
        "--max_tokens_per_micro_batch=4096",
    ]
    assert planned_flags(command, "distill") == ["--config", "c.yaml", "--max_tokens_per_micro_batch=16384"]


def test_every_flag_of_the_measured_commands_is_known_to_plan(project: Path) -> None:
    for part in (p for p in parts(small=False, memory=80e9) if p.steps):
        kept = planned_flags(list(part.command), "distill")
        assert kept[0] == "--config" and all(word.startswith("--") and "=" in word for word in kept[2:])
        keys = dict(word[2:].split("=", 1) for word in kept[2:])
        assert (
            resolve(project / kept[1], keys).max_tokens_per_micro_batch == 16384
        )  # unknown keys and values are refused
