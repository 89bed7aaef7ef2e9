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
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from backbones.layers import is_fused, unfused
from benchmarks.common.workload import REGIMES, SHAPES, WEIGHTS, Shape, Workload, operations
from engine.benchmarking import PeftTrainer
from engine.core import library_versions, machine_info, protect, source_commit
from engine.data import padded_groups
from engine.training import ForwardBackward, LossWeights, TaughtRow, TeacherCache, TeacherCacheReader

METHODS = ("peft", "plain", "packed")
Step = Callable[[], float]


@dataclass(frozen=True)
class Case:
    """One comparison. ``name``: of the shape in SHAPES, of which ``shape`` may differ in samples, tasks and layers."""

    name: str
    shape: Shape
    regime: str
    stage: str
    budget: int
    cache: bool

    @property
    def layers(self) -> int:
        return int(self.shape.card["num_hidden_layers"])

    @property
    def keeps_teacher(self) -> bool:
        return self.cache and self.stage == "distill"


def changed(shape: Shape, samples: int | None, tasks: int | None, layers: int | None) -> Shape:
    """The shape with these in place of its own, where they are given.

    Raises:
        ValueError: one is below 1; there are fewer samples than tasks.
    """
    for flag, value in (("--samples", samples), ("--tasks", tasks), ("--layers", layers)):
        if value is not None and value < 1:
            raise ValueError(f"{flag}: {value} is below 1")
    out = replace(shape, samples=samples or shape.samples, tasks=tasks or shape.tasks)
    if layers:
        out = replace(out, card={**shape.card, "num_hidden_layers": layers})
    if out.samples < out.tasks:
        few = f"{out.samples} samples for {out.tasks} tasks"
        raise ValueError(f"{few}: each task needs one; set --samples {out.tasks} or more")
    return out


def peft_step(work: Workload, stage: str, budget: int) -> Step:
    """Forward and backward of a step with PEFT; the mean loss of its batches."""
    distils = stage == "distill"
    weights, teachers = (WEIGHTS, work.teachers) if distils else (None, None)
    trainer = PeftTrainer(work.backbone.model, work.start_LD, work.shape.tasks, weights, teachers)
    batches = trainer.batches(work.items, budget)
    return lambda: trainer.gradients(batches)


def our_step(work: Workload, stage: str, budget: int, packed: bool, cache: bool, folder: Path) -> Step:
    forward_backward = ForwardBackward(work.backbone, packed, budget, 0, 1)
    bank = work.student(stage)
    weights = WEIGHTS if stage == "distill" else LossWeights()
    teachers = work.teachers if stage == "distill" else None
    kept = None
    if packed and cache and stage == "distill":
        rows = [TaughtRow(f"task{k}", work.teachers.prompts_KLD[k], s, s.kept) for k, s in enumerate(work.splits)]  # type: ignore[arg-type]
        hidden, size = work.shape.card["hidden_size"], getattr(torch, work.shape.dtype).itemsize
        store = TeacherCache(rows, folder, f"{work.shape}", 1.0, hidden, size)
        store.fill(list(range(len(store.parts))), forward_backward, work.teachers, print)
        kept = TeacherCacheReader(store, work.device)

    def step() -> float:
        bank.zero_grad()
        total = 0.0
        for group in forward_backward.micro_batches(work.items, bank):
            terms = forward_backward.train(group, bank, weights, teachers, kept)
            each = terms.ce_N + weights.kl * terms.kl_N + weights.hidden * terms.hidden_N
            total += float((each.double() * terms.weights_N).sum())
        return total / work.shape.tasks

    return step


def build(method: str, work: Workload, case: Case, folder: Path) -> Step:
    if method == "peft":
        return peft_step(work, case.stage, case.budget)
    return our_step(work, case.stage, case.budget, method == "packed", case.cache, folder)


def operators_of(method: str, work: Workload) -> contextlib.AbstractContextManager[None]:
    """Within, the model has the operators that the method's users have: PEFT's those of transformers."""
    return unfused(work.backbone.model) if method == "peft" else contextlib.nullcontext()


def bounds(work: Workload, stage: str, budget: int) -> dict[str, float]:
    """Operations of a step by method, and with the teacher kept."""
    shape, distil = work.shape, stage == "distill"
    batches = padded_groups(work.items, shape.length, budget, 1)
    wide = [[max(len(i.sample) for i in g)] * len(g) for g in batches]
    whole = ForwardBackward(work.backbone, True, budget, 0, 1).micro_batches(work.items, work.teachers)
    prompts = sum(len({i.row for i in g}) for g in whole) / len(whole)
    per_row = Shape(shape.card, shape.dtype, shape.length, shape.samples, round(prompts))
    tight = [[len(i.sample) for i in g] for g in whole]
    rows = sum(sum(w) + shape.length * len(w) for w in wide)
    extra = 1.0 if distil else 0.0
    return {
        "peft": operations(shape, wide, False, rows, 2 + extra, 2 + extra),
        "plain": operations(shape, wide, False, work.answer_tokens, 2 + extra, 2 + extra),
        "packed": operations(per_row, tight, True, work.answer_tokens, 2 + extra, 2 + extra),
        "packed, teacher kept": operations(per_row, tight, True, work.answer_tokens, 2, 2),
    }


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
    ops_of = {**ops, "packed": ops["packed, teacher kept"]} if case.keeps_teacher else ops
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
    flags += [] if case.cache else ["--no_cache"]
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
        # of the process now, not the peak of its start
        held = next(
            int(line.split()[1]) * 1024
            for line in Path("/proc/self/status").read_text().splitlines()
            if line.startswith("VmRSS")
        )
        Path("/proc/self/clear_refs").write_text("5")  # peak := now
        step()
        peak = next(
            int(line.split()[1]) * 1024
            for line in Path("/proc/self/status").read_text().splitlines()
            if line.startswith("VmHWM")
        )
        print(max(0, peak - held))


def _spread(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    at = lambda share: ordered[min(len(ordered) - 1, int(share * len(ordered)))]  # noqa: E731
    return {"median": statistics.median(values), "p10": at(0.1), "p90": at(0.9)}


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
    each = [
        f"{m} {v['step_seconds']['median']:.2f} s, {v['operations_per_s'] / 1e9:.0f} GFLOP/s, "
        f"{v.get('peak_bytes', 0) / 1e6:.0f} MB"
        for m, v in case["methods"].items()
    ]
    print("   " + ", ".join(each), flush=True)


def _keep(file: Path, case: dict[str, Any]) -> None:
    cases = json.loads(file.read_text()) if file.exists() else []
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps([c for c in cases if _name(c) != _name(case)] + [case], indent=1) + "\n")


def _name(case: dict[str, Any]) -> list[Any]:
    """What tells a case from the others of a file. Where it has no ``samples``, its sizes are the shape's own."""
    shape = SHAPES[case["shape"]]
    size = {"samples": shape.samples, "tasks": shape.tasks, "layers": shape.card["num_hidden_layers"]}
    keys = ("shape", "regime", "stage", "teacher_cache", "max_tokens_per_micro_batch")
    return [case[k] for k in keys] + [case.get(k, n) for k, n in size.items()]


if __name__ == "__main__":
    main()
