"""All that a GPU is needed for, in one command: tests, ceilings, kernels, whole training steps, and PEFT beside them.

    python -m benchmarks.gpu --output benchmarks/results/gpu_h100.json

Parts run one after another, each in a process of its own. A part is left out, and named, where the minutes that are
left or the device's memory do not hold it; one that fails or takes too long takes nothing from the next. Components
write files of their own beside the output, with the device in their names. What an earlier call measured on that card
stays in the output until its part has run again. --small does the same on pocket models, without a GPU
too: it shows that the command works, its figures mean nothing.
"""

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_parts import Part, parts
from engine.core import library_versions, machine_info, protect, source_commit
from engine.distributed import peak_here

ROOT = Path(__file__).resolve().parents[1]
GB = 10**9
TOLD = 6  # last lines of a part that failed

# of a whole step: what is kept of a case of ``train.py benchmark``
KEPT = (
    "label",
    "sharding",
    "teacher",
    "recomputed_layers",
    "step_seconds",
    "samples_per_s",
    "tokens_per_s",
    "computed_tokens_per_s",
    "mfu",
    "peak_gpu_bytes",
    "h2d_bytes_per_step",
    "load_seconds",
)


def device_name() -> str:
    """Short, for names of files: of an "NVIDIA H100 80GB HBM3" h100."""
    if not torch.cuda.is_available():
        return "cpu"
    words = re.split(r"[^a-z0-9]+", torch.cuda.get_device_name().lower())
    models = [word for word in words if re.fullmatch(r"[a-z]+\d+[a-z]*", word)]
    return models[0] if models else "gpu"


def device_memory() -> int:
    """Bytes of the first GPU; 0 without one."""
    return torch.cuda.mem_get_info()[1] if torch.cuda.is_available() else 0


def refusal(part: Part, left: float, free: float) -> str:
    """Why a part is left out; empty where it fits. left: seconds. free: bytes."""
    if part.seconds > left:
        return f"takes about {part.seconds} s, {max(0, left):.0f} s are left"
    if part.gb * GB > free:
        return f"needs {part.gb:.0f} GB of the device's memory, {free / GB:.0f} GB are free"
    return ""


def ran(command: list[str], log: Path, limit: float) -> tuple[int | None, float]:
    """Exit code, None where the limit ended it, and seconds. Ended with it is what it started."""
    began = time.monotonic()
    with log.open("wb") as out:
        process = subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            code: int | None = process.wait(timeout=limit)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    return code, time.monotonic() - began


def run_part(part: Part, folder: Path, results: Path, device: str, limit: float) -> dict[str, Any]:
    """Its exit code, seconds, and where it measures steps their figures."""
    log, made, command = folder / f"{part.name}.log", folder / part.name, [sys.executable, *part.command]
    if part.steps:
        command += [f"--run_dir={folder / 'run'}-{part.name}", "--output", str(made)]
    if part.result:
        command += ["--output", str(results / f"{part.result}_{device}.json")]
    code, seconds = ran(command, log, limit)
    found: dict[str, Any] = {
        "name": part.name,
        "command": list(part.command),
        "exit_code": code,
        "seconds": round(seconds, 1),
    }
    if code != 0:
        found["last_lines"] = [line for line in log.read_text(errors="replace").splitlines() if line.strip()][-TOLD:]
    if (made / "benchmark.json").is_file():  # written after each case: also of a part that was ended
        measured = json.loads((made / "benchmark.json").read_text())
        found["cases"] = []
        for case in measured["cases"]:
            found["cases"].append({key: case.get(key) for key in KEPT})
    return found


def told(part: dict[str, Any]) -> list[str]:
    """Lines for the terminal."""
    if "left_out" in part:
        return [f"{part['name']}: left out, it {part['left_out']}"]
    code = part["exit_code"]
    end = "done" if code == 0 else f"exit code {code}"
    if code is None:
        end = "ended at its limit"
    lines = [f"{part['name']}: {end}, {part['seconds']:.0f} s"]
    for case in part.get("cases", []):
        share = "" if case["mfu"] is None else f", MFU {case['mfu']:.1%}"
        held = "" if case["peak_gpu_bytes"] is None else f", {case['peak_gpu_bytes'] / GB:.1f} GB"
        lines.append(
            f"    {case['label'] or 'a step'}: {case['step_seconds']['median']:.3f} s, "
            f"{case['tokens_per_s']:,.0f} real tokens/s{share}{held}"
        )
    return lines + [f"    {line[:200]}" for line in part.get("last_lines", [])]


class Results:
    """The output file. A part's entry gives way when it has run again, not before; one that is left out gives way
    to nothing.
    """

    def __init__(self, file: Path, small: bool):
        self.file, self.order = file, [p.name for p in parts(small, device_memory())]
        here: dict[str, Any] = {"machine": machine_info(), "versions": library_versions(), "commit": source_commit()}
        self.content: dict[str, Any] = {"device": device_name(), "small": small, "parts": []}
        self.content |= {"peak_operations_per_s": peak_here("bfloat16"), "machine": here["machine"]}
        self._here = here
        if file.is_file():
            before = json.loads(file.read_text())
            same = before.get("small") == small and before.get("machine", {}).get("gpu") == here["machine"]["gpu"]
            self.content["parts"] = [p for p in before["parts"] if same and p["name"] in self.order]

    def add(self, done: dict[str, Any]) -> None:
        others = [p for p in self.content["parts"] if p["name"] != done["name"]]
        ran_before = len(others) < len(self.content["parts"])
        if ran_before and "left_out" in done:
            return
        self.content["parts"] = sorted([*others, done | self._here], key=lambda p: self.order.index(p["name"]))
        # after each part: whoever ends this command keeps what is done
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.file.write_text(json.dumps(self.content, indent=1) + "\n")


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
    """Within, SIGTERM and SIGHUP end this process as Ctrl-C does, so that the part that runs is ended with it."""

    def leave(number: int, frame: object) -> None:
        sys.exit(128 + number)

    before = {number: signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run_all(chosen: list[Part], results: Results, minutes: float, logs: Path | None) -> int:
    """-> parts that failed."""
    began, device, failed = time.monotonic(), device_name(), 0
    if logs:
        logs.mkdir(parents=True, exist_ok=True)
    with ended_by_signals(), tempfile.TemporaryDirectory() as folder:
        for part in chosen:
            left = 60 * minutes - (time.monotonic() - began)
            free = torch.cuda.mem_get_info()[0] if device != "cpu" else 0
            why = refusal(part, left, free)
            done: dict[str, Any] = {"name": part.name, "left_out": why}
            if not why:
                done = run_part(
                    part,
                    folder=Path(folder),
                    results=results.file.parent,
                    device=device,
                    limit=min(left, 2 * part.seconds),
                )
                failed += done["exit_code"] != 0
            if logs and not why:
                shutil.copy(Path(folder) / f"{part.name}.log", logs)
            results.add(done)
            print("\n".join(told(done)), flush=True)
    print(f"whole: {time.monotonic() - began:.0f} s; written to {results.file}", flush=True)
    return failed


def main(arguments: list[str] | None = None) -> int:
    """Exit code 0 where every part that ran passed, 1 where one did not, 2 for arguments that cannot be."""
    protect()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--minutes", type=float, default=9.0, help="for all parts together")
    parser.add_argument("--parts", default="", help="only these, by name, with commas between")
    parser.add_argument("--small", action="store_true", help="pocket models, which run on a CPU")
    parser.add_argument("--logs", type=Path, help="keep what each part printed in this folder")
    parser.add_argument(
        "--output",
        type=Path,
        help="JSON (default: benchmarks/results/gpu_<device>.json; with --small in runs/gpu-small)",
    )
    a = parser.parse_args(arguments)
    every = {p.name: p for p in parts(a.small, device_memory())}
    names = a.parts.split(",") if a.parts else list(every)
    unknown = [name for name in names if name not in every]
    if unknown:
        parser.error(f"--parts: must be some of {', '.join(every)}; got {', '.join(unknown)}")
    if device_name() == "cpu" and not a.small:
        parser.error(
            "no GPU found. Fix: run it on a machine that has one, or add --small to see the command work "
            "on pocket models"
        )
    folder = ROOT / ("runs/gpu-small" if a.small else "benchmarks/results")
    output = a.output or folder / f"gpu_{device_name()}.json"
    chosen = [every[name] for name in every if name in names]
    return int(run_all(chosen, results=Results(output, a.small), minutes=a.minutes, logs=a.logs) > 0)


if __name__ == "__main__":
    sys.exit(main())
