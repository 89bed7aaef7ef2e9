"""All teachers in one pass against one run each, on the same samples, under ZeRO-3 with CPU offload.

    torchrun --nproc_per_node 2 -m benchmarks.one_pass --shape pocket --tasks 21 --examples 4 --output
    benchmarks/results/one_pass_cpu.json

A step of all K tasks together, then K steps of one task each, in turns: the forward and backward passes and the sum
over ranks of the gradient. What a run of its own costs besides (start, imports, loading) is left out: it would count
for the one pass too.
"""

import argparse
import json
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.common.workload import SHAPES, Workload
from engine import distributed
from engine.core import library_versions, machine_info, protect, source_commit
from engine.data import Sample
from engine.distributed import barrier, sum_gradients
from engine.training import ForwardBackward, LossWeights


def step(forward_backward: ForwardBackward, bank: Any, samples: list[Sample]) -> None:
    bank.zero_grad()
    for group in forward_backward.micro_batches(samples, bank):
        forward_backward.train(group, bank, weights=LossWeights(), teachers=None, cached=None)
    sum_gradients(bank)


def main() -> None:
    protect()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--shape", choices=SHAPES, default="pocket")
    parser.add_argument("--regime", default="short")
    parser.add_argument("--tasks", type=int, default=21)
    parser.add_argument("--examples", type=int, default=4, help="of each task in a step")
    parser.add_argument("--max_tokens_per_micro_batch", type=int, default=8192)
    parser.add_argument("--deepspeed", default="ds_configs/zero3_offload.json")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--output", type=Path)
    a = parser.parse_args()
    place = distributed.dist_env()
    device = distributed.start_process_group(place)
    shape = replace(SHAPES[a.shape], tasks=a.tasks, samples=a.tasks * a.examples)
    work = Workload(shape, a.regime, device, a.deepspeed)
    bank = work.student("teach")
    forward_backward = ForwardBackward(work.backbone, True, a.max_tokens_per_micro_batch, place.rank, place.world)
    alone = []
    for k in range(a.tasks):
        alone.append([sample for sample in work.samples if sample.row == k])
    seconds: dict[str, list[float]] = {"one pass": [], "one run each": []}
    gathers: dict[str, int] = {}
    for repeat in range(a.pairs + 1):  # the first is a warm-up
        for name, steps in (("one pass", [work.samples]), ("one run each", alone)):
            barrier()
            work.backbone.gathers.take()
            begin = time.perf_counter()
            for samples in steps:
                step(forward_backward, bank, samples)
            barrier()
            gathers[name] = work.backbone.gathers.take().bytes
            if repeat:
                seconds[name].append(time.perf_counter() - begin)
    if place.rank:
        return
    ratios = [b / x for x, b in zip(seconds["one pass"], seconds["one run each"], strict=True)]
    outcome = {
        "shape": a.shape,
        "regime": a.regime,
        "tasks": a.tasks,
        "examples": a.examples,
        "deepspeed": a.deepspeed,
        "world_size": place.world,
        "step_seconds": {n: statistics.median(v) for n, v in seconds.items()},
        "gather_bytes": gathers,
        "ratio": statistics.median(ratios),
        "ratio_from_to": [min(ratios), max(ratios)],
        "machine": machine_info(),
        "versions": library_versions(),
        "commit": source_commit(),
    }
    print(
        f"{a.tasks} teachers: one pass {outcome['step_seconds']['one pass']:.2f} s, one run each "
        f"{outcome['step_seconds']['one run each']:.2f} s, "
        f"{outcome['ratio']:.2f}x ({min(ratios):.2f}-{max(ratios):.2f}); bytes gathered {gathers}"
    )
    if a.output:
        a.output.parent.mkdir(parents=True, exist_ok=True)
        a.output.write_text(json.dumps(outcome, indent=1) + "\n")


if __name__ == "__main__":
    main()
