"""One training step, side by side: PEFT's multitask prompt tuning, our plain formulation, our packed rows. Same model, same samples.

    pip install -r requirements-dev.txt
    python -m benchmarks.vs_peft --shape cpu_mid --regimes short,medium --stages teach,distill,adapt --output benchmarks/results/vs_peft_cpu.json

PEFT gets what its users can give it: length-grouped batches of the same token budget, no checkpointing, mixed-task batches through
task_ids in every stage (for teachers too, which it would train one after the other), SDPA attention, HF's own loss. A distillation's
KL and MSE it has not; they are written into its loop, on answer tokens. A step is the forward and backward passes of all n samples; methods alternate within a
run, so that a noisy machine slows all of them. Peak memory is that of a child process per method, less what it held before its first step.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from benchmarks.machine import commit, machine, versions
from benchmarks.workload import REGIMES, SHAPES, WEIGHTS, Shape, Workload, ids_of, operations, padded
from engine.formulation import Formulation, LossWeights
from engine.protection import protect
from engine.teacher_cache import KeptTeachers, TaughtRow, TeacherCache

METHODS = ("peft", "plain", "packed")
Step = Callable[[], float]


def peft_step(work: Workload, stage: str, budget: int) -> Step:
    """Forward and backward of a step with PEFT; the mean loss of its batches."""
    from peft import MultitaskPromptTuningConfig, TaskType, get_peft_model

    shape = work.shape
    # for its prompts alone: the backbone is the one that every method uses
    config = MultitaskPromptTuningConfig(task_type=TaskType.CAUSAL_LM, num_tasks=shape.tasks, num_virtual_tokens=shape.length, num_ranks=1)
    model: Any = get_peft_model(work.backbone.model, config)
    encoder = model.prompt_encoder["default"]
    with torch.no_grad():
        encoder.embedding.weight.copy_(work.start_LD)
        encoder.prefix_task_cols.fill_(1.0)
        encoder.prefix_task_rows.fill_(1.0)
    encoder.to(work.device)
    batches = [(*ids_of(g, work.device), torch.tensor([i.row for i in g], device=work.device)) for g in padded(work.items, shape.length, budget)]
    backbone: Any = work.backbone.model
    embed = backbone.get_input_embeddings()

    def teacher(ids: Any, mask: Any, tasks: Any) -> Any:
        full = torch.cat([mask.new_ones(len(ids), shape.length), mask], 1)
        embeds = torch.cat([work.teachers.prompts(tasks).to(embed.weight.dtype), embed(ids)], 1)
        return backbone(inputs_embeds=embeds, attention_mask=full, use_cache=False, output_hidden_states=True)

    def step() -> float:
        encoder.zero_grad()
        backbone.config._attn_implementation = "eager" if backbone.config.model_type == "gpt_oss" else "sdpa"
        total = 0.0
        for ids, mask, labels, tasks in batches:
            distils = stage == "distill"
            out = model(input_ids=ids, attention_mask=mask, labels=labels, task_ids=tasks, use_cache=False, output_hidden_states=distils)
            loss = out.loss
            if distils:
                with torch.no_grad():
                    taught = teacher(ids, mask, tasks)
                at = F.pad(labels != -100, (shape.length - 1, 1))[:, : out.logits.shape[1]]
                student, target = (logits[at].float().log_softmax(-1) for logits in (out.logits, taught.logits))
                loss = loss + WEIGHTS.kl * F.kl_div(student, target, reduction="batchmean", log_target=True)
                loss = loss + WEIGHTS.hidden * F.mse_loss(out.hidden_states[-1][at].float(), taught.hidden_states[-1][at].float())
            loss.backward()
            total += loss.item()
        return total / len(batches)

    return step


def our_step(work: Workload, stage: str, budget: int, packed: bool, cache: bool, folder: Path) -> Step:
    formulation = Formulation(work.backbone, packed, budget, 0, 1)
    bank = work.student(stage)
    weights = WEIGHTS if stage == "distill" else LossWeights()
    teachers = work.teachers if stage == "distill" else None
    kept = None
    if packed and cache and stage == "distill":
        rows = [TaughtRow(f"task{k}", work.teachers.prompts_KLD[k], s, s.kept) for k, s in enumerate(work.splits)]  # type: ignore[arg-type]
        hidden, size = work.shape.card["hidden_size"], getattr(torch, work.shape.dtype).itemsize
        store = TeacherCache(rows, folder, f"{work.shape}", 1.0, hidden, size)
        store.fill(list(range(len(store.parts))), formulation, work.teachers, print)
        kept = KeptTeachers(store, work.device)

    def step() -> float:
        bank.zero_grad()
        total = 0.0
        for group in formulation.micro_batches(work.items, bank):
            terms = formulation.train(group, bank, weights, teachers, kept)
            each = terms.ce_N + weights.kl * terms.kl_N + weights.hidden * terms.hidden_N
            total += float((each.double() * terms.weights_N).sum())
        return total / work.shape.tasks

    return step


def build(method: str, work: Workload, stage: str, budget: int, cache: bool, folder: Path) -> Step:
    return peft_step(work, stage, budget) if method == "peft" else our_step(work, stage, budget, method == "packed", cache, folder)


def bounds(work: Workload, stage: str, budget: int) -> dict[str, float]:
    """Operations of a step by method, and with the teacher kept."""
    shape, distil = work.shape, stage == "distill"
    batches = padded(work.items, shape.length, budget)
    wide = [[max(len(i.sample) for i in g)] * len(g) for g in batches]
    whole = Formulation(work.backbone, True, budget, 0, 1).micro_batches(work.items, work.teachers)
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


def measure(shape: str, regime: str, stage: str, budget: int, pairs: int, cache: bool, device: torch.device, methods: list[str]) -> dict[str, Any]:
    work = Workload(SHAPES[shape], regime, device)
    with tempfile.TemporaryDirectory() as folder:
        steps = {m: build(m, work, stage, budget, cache, Path(folder)) for m in methods}
        losses = {m: step() for m, step in steps.items()}  # warm-up
        seconds: dict[str, list[float]] = {m: [] for m in methods}
        for _ in range(pairs):
            for m, step in steps.items():
                if device.type == "cuda":
                    torch.cuda.synchronize()
                begin = time.perf_counter()
                step()
                if device.type == "cuda":
                    torch.cuda.synchronize()
                seconds[m].append(time.perf_counter() - begin)
    work_ops = bounds(work, stage, budget)
    packed_ops = work_ops["packed, teacher kept" if cache and stage == "distill" else "packed"]
    out: dict[str, Any] = {
        "shape": shape, "regime": regime, "stage": stage, "teacher_cache": cache and stage == "distill", "token_budget": budget,
        "real_tokens": work.real_tokens, "answer_tokens": work.answer_tokens, "operations": work_ops, "losses": losses, "methods": {},
    }  # fmt: skip
    for m, values in seconds.items():
        ops = packed_ops if m == "packed" else work_ops[m]
        out["methods"][m] = {"step_seconds": _spread(values), "real_tokens_per_s": work.real_tokens / statistics.median(values),
                             "operations_per_s": ops / statistics.median(values)}  # fmt: skip
    for m in methods[:-1]:
        ratios = [a / b for a, b in zip(seconds[m], seconds["packed"], strict=True)]
        bound = work_ops[m] / packed_ops
        out[f"packed_vs_{m}"] = {"ratio": _spread(ratios), "operation_bound": bound, "of_bound": statistics.median(ratios) / bound}
    return out


def peak_memory(shape: str, regime: str, stage: str, budget: int, cache: bool, method: str) -> int:
    """Bytes by which a child process's peak exceeds what it held before its first step."""
    flags = ["--child", method, "--shape", shape, "--regimes", regime, "--stages", stage, "--token_budget", str(budget)] + ([] if cache else ["--no_cache"])
    done = subprocess.run([sys.executable, "-m", "benchmarks.vs_peft", *flags], capture_output=True, text=True, check=True)
    return int(done.stdout.splitlines()[-1])


def _child(method: str, work: Workload, stage: str, budget: int, cache: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        step = build(method, work, stage, budget, cache, Path(folder))
        if work.device.type == "cuda":
            before = torch.cuda.memory_allocated()
            torch.cuda.reset_peak_memory_stats()
            step()
            print(torch.cuda.max_memory_allocated() - before)
            return
        # of the process now, not the peak of its start
        held = next(int(line.split()[1]) * 1024 for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS"))
        Path("/proc/self/clear_refs").write_text("5")  # peak := now
        step()
        peak = next(int(line.split()[1]) * 1024 for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
        print(max(0, peak - held))


def _spread(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    at = lambda share: ordered[min(len(ordered) - 1, int(share * len(ordered)))]  # noqa: E731
    return {"median": statistics.median(values), "p10": at(0.1), "p90": at(0.9)}


def main() -> None:
    protect()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("--shape", choices=SHAPES, default="cpu_mid")
    parser.add_argument("--regimes", default="short,medium,long", help=f"of {', '.join(REGIMES)}")
    parser.add_argument("--stages", default="teach,distill,adapt")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--token_budget", type=int, default=8192)
    parser.add_argument("--no_cache", action="store_true", help="ask the teacher every time")
    parser.add_argument("--no_memory", action="store_true", help="leave the children out")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--child", choices=METHODS, help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path, help="JSON; results of an earlier call are kept, the same cases replaced")
    a = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if a.child:
        _child(a.child, Workload(SHAPES[a.shape], a.regimes, device), a.stages, a.token_budget, not a.no_cache)
        return
    methods = a.methods.split(",")
    for regime in a.regimes.split(","):
        for stage in a.stages.split(","):
            case = measure(a.shape, regime, stage, a.token_budget, a.pairs, not a.no_cache, device, methods)
            if not a.no_memory:
                for m in methods:
                    case["methods"][m]["peak_bytes"] = peak_memory(a.shape, regime, stage, a.token_budget, not a.no_cache, m)
            case |= {"machine": machine(), "versions": versions(), "commit": commit()}
            for m in methods[:-1]:
                r = case[f"packed_vs_{m}"]
                print(f"{a.shape} {regime} {stage}: packed {r['ratio']['median']:.2f}x {m} ({r['ratio']['p10']:.2f}-{r['ratio']['p90']:.2f}), "
                      f"operations allow {r['operation_bound']:.2f}x", flush=True)  # fmt: skip
            print("   " + ", ".join(f"{m} {v['step_seconds']['median']:.2f} s, {v['operations_per_s'] / 1e9:.0f} GFLOP/s, "
                                    f"{v.get('peak_bytes', 0) / 1e6:.0f} MB" for m, v in case["methods"].items()), flush=True)  # fmt: skip
            if a.output:
                _keep(a.output, case)


def _keep(file: Path, case: dict[str, Any]) -> None:
    cases = json.loads(file.read_text()) if file.exists() else []
    name = lambda c: [c[k] for k in ("shape", "regime", "stage", "teacher_cache", "token_budget")]  # noqa: E731
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps([c for c in cases if name(c) != name(case)] + [case], indent=1) + "\n")


if __name__ == "__main__":
    main()
