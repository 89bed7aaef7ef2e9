"""One training step, side by side: PEFT's multitask prompt tuning, our plain formulation, our packed rows. Same model,
same samples.

    pip install -r requirements-dev.txt
    python -m benchmarks.vs_peft --shape cpu_mid --regimes short,medium --stages teach,distill,adapt --output
    benchmarks/results/vs_peft_cpu.json python -m benchmarks.vs_peft --shape gpt_oss_20b --layers 4 --tasks 21 --samples
    84 --regimes short --stages teach

PEFT gets what its users can give it (``engine.benchmarking.peft_step``): length-grouped batches of the same token
budget, no checkpointing, mixed-task batches through task_ids in every stage (for teachers too, which it would train one
after the other), SDPA attention, HF's own loss. It runs transformers' own operators: on a GPU those that ours joins are
given back for its steps. transformers has no trainable MXFP4. So PEFT runs gpt_oss_20b on our packed experts, unfused:
both methods hold the same weights. A distillation's KL and MSE it has not; they are written into its loop, on answer
tokens. A step is the forward and backward passes of all n samples; methods alternate within a run, so that a noisy
machine slows all of them. Peak memory is that of a child process per method, less what it held before its first step.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from backbones.layers import is_fused
from benchmarks.common.process_memory import forget_peak, memory_of
from benchmarks.common.steps import METHODS, Case, Step, bounds, build, changed, operators_of
from benchmarks.common.workload import REGIMES, SHAPES, Workload
from engine.core import library_versions, machine_info, protect, source_commit


def measure(case: Case, pairs: int, device: torch.device, methods: list[str]) -> dict[str, Any]:
    """Steps of all methods in turns, ``pairs`` of each after one of warm-up. -> the case as results hold it."""
    work = Workload(case.shape, case.regime, device)
    seconds: dict[str, list[float]] = {m: [] for m in methods}
    losses, fused = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        steps = {m: build(m, work, case, Path(folder)) for m in methods}
        for m, step in steps.items():
            with operators_of(m, work):
                losses[m], fused[m] = step(), is_fused(work.backbone.model)
        for _ in range(pairs):
            for m, step in steps.items():
                with operators_of(m, work):
                    seconds[m].append(_timed(step, device))
    ops = bounds(work, case.stage, case.budget)
    ops_of = dict(ops)
    if case.keeps_teacher:
        ops_of["packed"] = ops["packed, teacher cached"]
    out: dict[str, Any] = {
        "shape": case.name,
        "regime": case.regime,
        "stage": case.stage,
        "samples": case.shape.samples,
        "tasks": case.shape.tasks,
        "layers": case.layers,
        "teacher_cache": case.keeps_teacher,
        "max_tokens_per_micro_batch": case.budget,
        "real_tokens": work.real_tokens,
        "answer_tokens": work.answer_tokens,
        "operations": ops,
        "losses": losses,
        "methods": {},
    }
    for m, values in seconds.items():
        middle = statistics.median(values)
        out["methods"][m] = {
            "step_seconds": _spread(values),
            "real_tokens_per_s": work.real_tokens / middle,
            "operations_per_s": ops_of[m] / middle,
            "fused": fused[m],
        }
    for m in methods[:-1]:
        ratios = [a / b for a, b in zip(seconds[m], seconds["packed"], strict=True)]
        bound = ops_of[m] / ops_of["packed"]
        out[f"packed_vs_{m}"] = {
            "ratio": _spread(ratios),
            "operation_bound": bound,
            "of_bound": statistics.median(ratios) / bound,
        }
    return out


def _timed(step: Step, device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    begin = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begin


def peak_memory(case: Case, method: str) -> int:
    """Bytes by which a child process's peak exceeds what it held before its first step."""
    flags = ["--child", method, "--shape", case.name, "--regimes", case.regime, "--stages", case.stage]
    flags += ["--max_tokens_per_micro_batch", str(case.budget), "--layers", str(case.layers)]
    flags += ["--samples", str(case.shape.samples), "--tasks", str(case.shape.tasks)]
    if not case.cache:
        flags.append("--no_cache")
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.vs_peft", *flags], capture_output=True, text=True, check=True
    )
    return int(done.stdout.splitlines()[-1])


def _child(method: str, case: Case, device: torch.device) -> None:
    work = Workload(case.shape, case.regime, device)
    with tempfile.TemporaryDirectory() as folder, operators_of(method, work):
        step = build(method, work, case, Path(folder))
        if device.type == "cuda":
            before = torch.cuda.memory_allocated()
            torch.cuda.reset_peak_memory_stats()
            step()
            print(torch.cuda.max_memory_allocated() - before)
            return
        held = memory_of("VmRSS")  # of the process now, not the peak of its start
        forget_peak()
        step()
        print(max(0, memory_of("VmHWM") - held))


def _spread(values: list[float]) -> dict[str, float]:
    ordered, n = sorted(values), len(values)
    low, high = ordered[min(n - 1, int(0.1 * n))], ordered[min(n - 1, int(0.9 * n))]
    return {"median": statistics.median(values), "p10": low, "p90": high}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--shape", choices=SHAPES, default="cpu_mid")
    parser.add_argument("--samples", type=int, help="of a step, in place of the shape's; each task needs one")
    parser.add_argument("--tasks", type=int, help="in place of the shape's")
    parser.add_argument("--layers", type=int, help="decoder layers, in place of the shape's")
    parser.add_argument("--regimes", default="short,medium,long", help=f"of {', '.join(REGIMES)}")
    parser.add_argument("--stages", default="teach,distill,adapt")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--max_tokens_per_micro_batch", type=int, default=8192)
    parser.add_argument("--no_cache", action="store_true", help="ask the teacher every time")
    parser.add_argument("--no_memory", action="store_true", help="leave the children out")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--child", choices=METHODS, help=argparse.SUPPRESS)
    parser.add_argument(
        "--output", type=Path, help="JSON; results of an earlier call are kept, the same cases replaced"
    )
    return parser


def main() -> None:
    protect()
    parser = _parser()
    a = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        shape = changed(SHAPES[a.shape], a.samples, a.tasks, a.layers)
    except ValueError as error:
        parser.error(str(error))
    if a.child:
        _child(a.child, Case(a.shape, shape, a.regimes, a.stages, a.max_tokens_per_micro_batch, not a.no_cache), device)
        return
    methods = a.methods.split(",")
    for regime in a.regimes.split(","):
        for stage in a.stages.split(","):
            case = Case(a.shape, shape, regime, stage, a.max_tokens_per_micro_batch, not a.no_cache)
            found = measure(case, a.pairs, device, methods)
            if not a.no_memory:
                for m in methods:
                    found["methods"][m]["peak_bytes"] = peak_memory(case, m)
            found |= {"machine": machine_info(), "versions": library_versions(), "commit": source_commit()}
            _tell(found, methods)
            if a.output:
                _keep(a.output, found)


def _tell(case: dict[str, Any], methods: list[str]) -> None:
    for m in methods[:-1]:
        r = case[f"packed_vs_{m}"]
        spread = f"{r['ratio']['median']:.2f}x {m} ({r['ratio']['p10']:.2f}-{r['ratio']['p90']:.2f})"
        bound = f"operations allow {r['operation_bound']:.2f}x"
        print(f"{case['shape']} {case['regime']} {case['stage']}: packed {spread}, {bound}", flush=True)
    each = []
    for m, v in case["methods"].items():
        rate, peak = f"{v['operations_per_s'] / 1e9:.0f} GFLOP/s", f"{v.get('peak_bytes', 0) / 1e6:.0f} MB"
        each.append(f"{m} {v['step_seconds']['median']:.2f} s, {rate}, {peak}")
    print("   " + ", ".join(each), flush=True)


def _keep(file: Path, case: dict[str, Any]) -> None:
    cases = json.loads(file.read_text()) if file.exists() else []
    file.parent.mkdir(parents=True, exist_ok=True)
    others = [c for c in cases if _name(c) != _name(case)]
    file.write_text(json.dumps([*others, case], indent=1) + "\n")


def _name(case: dict[str, Any]) -> list[Any]:
    """What tells a case from the others of a file. Where it has no ``samples``, its sizes are the shape's own."""
    shape = SHAPES[case["shape"]]
    size = {"samples": shape.samples, "tasks": shape.tasks, "layers": shape.card["num_hidden_layers"]}
    keys = ("shape", "regime", "stage", "teacher_cache", "max_tokens_per_micro_batch")
    return [case[k] for k in keys] + [case.get(k, n) for k, n in size.items()]


if __name__ == "__main__":
    main()
