"""``make gpu``'s command: parts that fail, hang or do not fit take nothing from the next, and are named. Whole, on
pocket models: without a GPU.
"""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import gpu
from benchmarks.gpu import Part, device_name, main, parts, ran, refusal, told
from benchmarks.performance_page import page

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    "card, name",
    [
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA A100-SXM4-40GB", "a100"),
        ("NVIDIA GeForce RTX 4090", "gpu"),
        ("NVIDIA L40S", "l40s"),
    ],
)
def test_a_card_s_short_name(card: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: card)
    assert device_name() == name


def test_a_part_that_time_or_memory_does_not_hold_is_left_out() -> None:
    part = Part("llama", (), 90, 72)
    assert refusal(part, 90, 72 * 10**9) == ""
    assert refusal(part, 89, 10**12) == "takes about 90 s, 89 s are left"
    assert refusal(part, 1000, 71 * 10**9) == "needs 72 GB of the device's memory, 71 GB are free"


def test_all_parts_take_less_than_nine_minutes_and_their_memory_fits_an_h100() -> None:
    every = parts(small=False, memory=80e9)
    assert sum(p.seconds for p in every) <= 9 * 60 and max(p.gb for p in every) <= 78
    assert len({p.name for p in every}) == len(every)
    for part in every:  # what they call is there
        words = [w for w in part.command if w.startswith(("configs/", "tests/"))] + [
            w.partition("=")[2] for w in part.command if "=configs/" in w
        ]
        assert all((gpu.ROOT / w).exists() for w in words)
        flags = [w.partition("=")[0] for w in part.command if w.startswith("--")]
        assert len(set(flags)) == len(flags), f"{part.name}: a duplicate flag, which is refused"


def test_the_peer_gets_a_micro_batch_that_fits_the_card() -> None:
    def budget(memory: float) -> str:
        command = next(p.command for p in parts(small=False, memory=memory) if p.name == "vs_peft")
        return command[command.index("--max_tokens_per_micro_batch") + 1]

    assert budget(80e9) == "8192" and budget(141e9) == "16384"


def test_what_hangs_is_ended_with_what_it_started(tmp_path: Path) -> None:
    child = (
        f"import subprocess, sys, time; p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']); "
        f"open({str(tmp_path / 'pid')!r}, 'w').write(str(p.pid)); time.sleep(600)"
    )
    code, seconds = ran([sys.executable, "-c", child], tmp_path / "log", 5.0)
    assert code is None and seconds < 60
    assert gone(int((tmp_path / "pid").read_text()))


def test_a_terminated_command_ends_its_part_and_keeps_what_is_done(tmp_path: Path) -> None:
    child = f"import os, time; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    code = (
        "import sys; from benchmarks import gpu; from benchmarks.gpu import Part\n"
        f"two = [Part('first', ('-c', 'pass'), 60, 0), Part('second', ('-c', {child!r}), 600, 0)]\n"
        "gpu.parts = lambda small, memory: two\n"
        f"sys.exit(gpu.main(['--small', '--minutes', '99', '--output', {str(tmp_path / 'gpu_cpu.json')!r}]))"
    )
    with subprocess.Popen([sys.executable, "-c", code], cwd=gpu.ROOT) as process:
        until = time.monotonic() + 120
        while not (tmp_path / "pid").is_file() or not (tmp_path / "pid").read_text():
            assert time.monotonic() < until and process.poll() is None
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 128 + signal.SIGTERM
    assert gone(int((tmp_path / "pid").read_text()))
    assert [p["name"] for p in json.loads((tmp_path / "gpu_cpu.json").read_text())["parts"]] == ["first"]


def test_small_results_do_not_stand_among_the_measured_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    monkeypatch.setattr(gpu, "run_all", lambda chosen, results, minutes, logs: found.append(results.file) or 0)
    assert main(["--small"]) == 0 and found[0].parent == gpu.ROOT / "runs/gpu-small"


def gone(pid: int) -> bool:
    """Within a minute: a process is there for a moment after it was killed."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False


def test_a_part_that_fails_is_told_and_the_next_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    two = [
        Part("first", ("-c", "print('what went wrong'); raise SystemExit(3)"), 60, 0),
        Part("second", ("-c", "pass"), 60, 0),
        Part("third", (), 10**6, 0),
    ]
    monkeypatch.setattr(gpu, "parts", lambda small, memory: two)
    assert main(["--small", "--output", str(tmp_path / "gpu_cpu.json"), "--logs", str(tmp_path / "logs")]) == 1
    assert {p.name: p.read_text() for p in (tmp_path / "logs").iterdir()} == {
        "first.log": "what went wrong\n",
        "second.log": "",
    }
    found = json.loads((tmp_path / "gpu_cpu.json").read_text())["parts"]
    assert [p.get("exit_code") for p in found] == [3, 0, None] and found[0]["last_lines"] == ["what went wrong"]
    out = capsys.readouterr().out
    assert (
        "first: exit code 3" in out
        and "    what went wrong" in out
        and "second: done" in out
        and "third: left out, it takes about" in out
    )
    two[0] = Part("first", ("-c", "pass"), 60, 0)  # again, alone: what the others did stays
    assert main(["--small", "--output", str(tmp_path / "gpu_cpu.json"), "--parts", "first"]) == 0
    again = json.loads((tmp_path / "gpu_cpu.json").read_text())["parts"]
    assert (
        [p["name"] for p in again] == ["first", "second", "third"]
        and again[0]["exit_code"] == 0
        and again[1:] == found[1:]
    )
    two[1] = Part("second", (), 10**6, 0)  # left out now: what it measured before stays
    main(["--small", "--output", str(tmp_path / "gpu_cpu.json"), "--parts", "second"])
    assert json.loads((tmp_path / "gpu_cpu.json").read_text())["parts"] == again
    two[0] = Part("first", ("-c", "raise SystemExit(3)"), 60, 0)
    main(["--small", "--output", str(tmp_path / "gpu_cpu.json"), "--parts", "first"])
    assert "- first failed" in "\n".join(page(tmp_path)) and "- third was left out: it takes" in "\n".join(
        page(tmp_path)
    )


@pytest.mark.parametrize(
    "arguments, told_",
    [
        (
            ["--small", "--parts", "llama,lama"],
            "--parts: must be some of tests, ceilings, llama, gpt-oss, vs_peft; got lama",
        ),
        ([], "no GPU found. Fix:"),
    ],
)
def test_what_cannot_run_is_refused(arguments: list[str], told_: str, capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available() and not arguments:
        pytest.skip("there is a GPU")
    with pytest.raises(SystemExit) as error:
        main(arguments)
    assert error.value.code == 2 and told_ in capsys.readouterr().err


def test_it_measures_whole_steps_and_components_of_pocket_models(tmp_path: Path, project: Path) -> None:
    assert main(["--small", "--parts", "ceilings,llama", "--output", str(tmp_path / "gpu_cpu.json")]) == 0
    content: dict[str, Any] = json.loads((tmp_path / "gpu_cpu.json").read_text())
    cases = content["parts"][1]["cases"]
    assert [c["label"] for c in cases] == ["distill.teacher_cache=auto", "distill.teacher_cache=off"] and [
        c["teacher"] for c in cases
    ] == ["cached", "asked"]
    assert all(c["step_seconds"]["median"] > 0 and c["tokens_per_s"] > 0 for c in cases)
    ceilings = json.loads((tmp_path / "ceilings_cpu.json").read_text())["cases"]
    assert all(c["per_second"] > 0 for c in ceilings) and [c["unit"] for c in ceilings] == [
        "operations",
        "bytes",
        "bytes",
    ]
    text = "\n".join(page(tmp_path))
    assert (
        "python -m benchmarks.gpu --output benchmarks/results/gpu_cpu.json" in text
        and "teacher cached" in text
        and "GB/s" in text
    )
    assert "    distill.teacher_cache=off: " in "\n".join(told(content["parts"][1]))
