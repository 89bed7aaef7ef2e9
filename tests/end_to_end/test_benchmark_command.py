"""``benchmark`` as a user types it: two ranks under torchrun, ZeRO-3, invented rows, no corpora."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from commands_runner import run, run_and_kill

from engine.benchmarking.result import CONTRACT
from engine.data.sampling import Stream, seed_of
from engine.data.synthetic import Invention, invented_data

STEPS, WARMUP, EXAMPLES = 5, 2, 3
TASKS = ("demo_qa", "demo_entities", "demo_summary")
COMMAND = [
    "benchmark",
    "--config=configs/demo/distill.yaml",
    "--mode=teach",
    f"--steps={STEPS}",
    f"--warmup={WARMUP}",
    "--invented=30,5",
    f"--teach.batch_size={EXAMPLES}",
    "--max_tokens_per_micro_batch=256",
    "--shardings=zero3,replicated",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("benchmark")
    text = run(*COMMAND, f"--output={place / 'out'}", f"--run_dir={place / 'run'}", "--profile=true")
    assert "they take turns" in text and not (place / "run").exists()
    return place / "out"


@pytest.fixture(scope="module")
def content(folder: Path) -> Any:
    return json.loads((folder / "benchmark.json").read_text())


def test_the_folder_holds_these_files_for_their_owner(folder: Path) -> None:
    assert {f.name for f in folder.iterdir()} == {
        "benchmark.json",
        "benchmark.md",
        "benchmark.png",
        "profile.md",
        "trace-0-0.json.gz",
        "trace-0-1.json.gz",
    }
    assert all(f.stat().st_mode & 0o077 == 0 for f in [folder, *folder.iterdir()])
    page = (folder / "benchmark.md").read_text()
    assert "python train.py benchmark --config=configs/demo/distill.yaml" in page and "sharding=replicated" in page
    assert "aten::" in (folder / "profile.md").read_text()


def test_benchmark_json_has_the_contracts_keys_and_cases(content: Any) -> None:
    assert (
        set(content) == {*CONTRACT, "machine", "versions", "commit", "cases", "left_out"} and content["left_out"] == []
    )
    assert [c["label"] for c in content["cases"]] == ["sharding=zero3", "sharding=replicated"]
    assert all(set(CONTRACT) <= c.keys() for c in content["cases"])
    assert content["mode"] == "teach" and content["sharding"] == "zero3" and content["world_size"] == 2
    assert content["mfu"] is None and content["peak_gpu_bytes"] is None  # a CPU's peak is nobody's statement
    assert content["peak_host_bytes"] is None and all(
        c["beside"] == 1 for c in content["cases"]
    )  # of two in turns, nobody's own
    assert content["machine"]["nodes"] == 1 and content["machine"]["ranks_per_node"] == 2


def test_what_memory_would_not_hold_is_left_out_and_said(tmp_path: Path) -> None:
    sweep = [f for f in COMMAND if not f.startswith(("--shardings", "--max_tokens_per_micro_batch"))] + [
        "--sweep=max_tokens_per_micro_batch=256,4000000000"
    ]
    text = run(*sweep, f"--output={tmp_path / 'out'}", f"--run_dir={tmp_path / 'run'}", ranks=1)
    content = json.loads((tmp_path / "out/benchmark.json").read_text())
    assert [c["label"] for c in content["cases"]] == ["max_tokens_per_micro_batch=256"]
    (line,) = content["left_out"]
    assert re.search(
        r"max_tokens_per_micro_batch=4000000000: zero3_offload needs [\d.]+ GB a rank, there are [\d.]+ GB", line
    )
    assert f"WARNING left out: {line}" in text and line in (tmp_path / "out/benchmark.md").read_text()


def test_a_killed_benchmark_has_written_the_cases_that_were_through(tmp_path: Path) -> None:
    where = [f"--output={tmp_path / 'out'}", f"--run_dir={tmp_path / 'run'}", "--alternate=false"]
    run_and_kill(*COMMAND, *where, when="sharding replicated", ranks=1)
    content = json.loads((tmp_path / "out/benchmark.json").read_text())
    assert [c["label"] for c in content["cases"]] == ["sharding=zero3"] and len(
        content["cases"][0]["steps"]["seconds"]
    ) == STEPS


def test_real_tokens_are_those_of_the_samples_to_the_last_one(content: Any) -> None:
    data = invented_data(TASKS, invention=Invention(30, 5), vocabulary=1024, seed=0)
    splits = {task: d.splits["train"] for task, d in data.items()}
    streams = {task: Stream(split.sample_indices, seed_of(0, "order", task)) for task, split in splits.items()}
    wanted = [
        sum(len(splits[t].sample(streams[t].at(step * EXAMPLES + i))) for t in TASKS for i in range(EXAMPLES))
        for step in range(WARMUP, WARMUP + STEPS)
    ]
    for case in content["cases"]:
        steps = case["steps"]
        assert steps["real_tokens"] == wanted and steps["samples"] == [EXAMPLES * len(TASKS)] * STEPS
        assert all(
            c >= r + 16 * 2 for c, r in zip(steps["computed_tokens"], steps["real_tokens"], strict=True)
        )  # a prompt a rank at the least
        assert case["tokens_per_s"] == pytest.approx(sum(wanted) / sum(steps["seconds"]))


def test_the_phases_add_up_to_the_step(content: Any) -> None:
    for case in content["cases"]:
        steps = case["steps"]
        assert sum(map(sum, steps["phases"].values())) == pytest.approx(sum(steps["seconds"]), rel=0.15)
        waits = case["phases"]["gather wait"]["median"] > 0
        assert waits == (case["sharding"] == "zero3")
        assert 0 < case["kernel_share"] < 0.5


def test_bytes_are_those_that_zero_gathers(content: Any) -> None:
    sharded, resident = content["cases"]
    hidden, inner, keys, vocabulary = 64, 128, 32, 1024
    layer = 2 * hidden**2 + 2 * hidden * keys + 3 * hidden * inner + 2 * hidden
    rest = hidden + 2 * vocabulary * hidden
    # one micro-batch a rank: each layer for the forward and again for the backward pass, unless DeepSpeed still holds
    # it; a rank receives the other's half
    assert 4 * (2 * layer + rest) / 2 <= sharded["gather_bytes_per_step"]["intra"] <= 4 * (2 * 2 * layer + rest) / 2
    assert sharded["gather_bytes_per_step"]["inter"] == 0
    assert sharded["gathers_per_step"] > 0 and sharded["h2d_bytes_per_step"] == 0
    assert resident["gather_bytes_per_step"] == {"intra": 0, "inter": 0}


def test_a_slower_step_ends_with_3(folder: Path, content: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for case in content["cases"]:  # as if the machine had been so much faster than any noise
        case["steps"]["seconds"] = [s / 50 for s in case["steps"]["seconds"]]
    (tmp_path / "old.json").write_text(json.dumps(content))
    monkeypatch.setenv("EXIT_CODE_FILE", str(tmp_path / "code"))
    compare = [f"--output={tmp_path / 'out'}", f"--run_dir={tmp_path / 'run'}", f"--compare={tmp_path / 'old.json'}"]
    text = run(*COMMAND, *compare, expect=1)  # torchrun answers 1 for any failed rank
    assert (tmp_path / "code").read_text() == "3\n"
    assert "slower beyond the spread" in text and re.search(r"a step takes [\d.]+ times", text)
    assert (tmp_path / "out/benchmark.json").is_file() and "## Against an earlier run" in (
        tmp_path / "out/benchmark.md"
    ).read_text()


def test_peft_takes_turns_and_stands_in_the_files(tmp_path: Path) -> None:
    command = [f for f in COMMAND if not f.startswith("--shardings")] + ["--shardings=replicated", "--beside=peft"]
    text = run(*command, f"--output={tmp_path / 'out'}", f"--run_dir={tmp_path / 'run'}", ranks=1)
    (case,) = json.loads((tmp_path / "out/benchmark.json").read_text())["cases"]
    found, page = case["peft"], (tmp_path / "out/benchmark.md").read_text()
    assert len(found["steps"]["seconds"]) == len(case["steps"]["seconds"]) == STEPS and case["peak_host_bytes"] is None
    assert found["tokens_per_s"] * sum(found["steps"]["seconds"]) == pytest.approx(sum(case["steps"]["real_tokens"]))
    ratios = sorted(a / b for a, b in zip(found["steps"]["seconds"], case["steps"]["seconds"], strict=True))
    assert found["ratio"]["median"] == pytest.approx(ratios[STEPS // 2]) and ratios[0] > 0
    for written in (text, page):
        assert "PEFT's seconds / ours" in written and f"{found['ratio']['median']:.2f} (" in written
    assert "after each step one of PEFT's" in text and "multitask prompt tuning" in page
