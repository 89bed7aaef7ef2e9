"""What a GPU would have to do in one packed micro-batch, counted without one: operators, bytes and operations of the
CUDA path at full size.

    python -m benchmarks.roofline --output benchmarks/results/roofline_modelled.json

The model is made on torch's meta device, where tensors have shapes and no numbers, and the real code runs: forward
pass, head and loss, backward pass. Each operator takes as long as its bytes (each input read once, each output written
once) or its matrix products take, whichever is longer, and at least as long as a launch. So the sum is a bound from
below for kernels as they are now, and says which of them to join. Attention counts by its bytes alone; an operator of
several kernels, such as a sort, counts as one. Counts are exact: tests hold them, so that a change which adds one is
seen.
"""

import argparse
import json
from collections import defaultdict
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.initialization import no_init_weights

from backbones import FrozenRoot, PackedBatch, share_prefix
from backbones.layers import fuse
from backbones.loading import experts_as_released, recompute_first
from benchmarks.common.workload import SHAPES, Shape
from benchmarks.counting.counter import LAUNCH, MATRIX, MEMORY, META, Cost, Counter, size_of
from benchmarks.counting.cuda_path import as_on_a_gpu
from engine.core import library_versions, protect, source_commit
from prompt_modules import tied_head

LENGTH = 100  # of a prompt
MEAN, ANSWER = 100, 0.1  # of a sample, half to one and a half times as long; the answer's share of it
ROWS = {2048: 4, 16384: 10}  # tokens of a row -> tasks in it


def model_of(shape: Shape, fused: bool = True) -> FrozenRoot:
    """Without memory."""
    card = {**shape.card}
    config = AutoConfig.for_model(card.pop("model_type"), **card)
    with no_init_weights(), experts_as_released(config), META:
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.requires_grad_(False).eval()
    if fused:
        fuse(model)
    return FrozenRoot(model)


def batch_of(row: int, tasks: int) -> PackedBatch:
    """A row of about so many tokens; each task's samples lie together."""
    samples = (row - tasks * LENGTH) // MEAN
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(MEAN // 2, MEAN + MEAN // 2 + 1, (samples,), generator=generator).tolist()
    slots = sorted(b % tasks for b in range(samples))
    answers = sum(max(1, round(ANSWER * n)) for n in lengths)
    number = torch.zeros(answers, dtype=torch.long, device=META)
    prefix = share_prefix(lengths, slots, n_prompts=tasks, length=LENGTH, device=META)
    return PackedBatch(
        ids_T=torch.zeros(sum(lengths), dtype=torch.long),
        before_N=number,
        labels_N=number,
        row_N=number,
        weights_N=torch.ones(answers, dtype=torch.float64, device=META),
        rows_K=torch.arange(tasks, device=META),
        prefix=prefix,
    )


class _Row(torch.autograd.Function):
    """The projection's kernels: one launch forward, two backward."""

    @staticmethod
    def forward(ctx: Any, shared_LD: Tensor, tokens_TD: Tensor, tasks: int, counter: Counter) -> Tensor:
        ctx.counter, ctx.shape = counter, shared_LD.shape
        row_SD = tokens_TD.new_empty(tasks * len(shared_LD) + len(tokens_TD), tokens_TD.shape[1])
        counter.note("projection (Triton)", 2 * size_of(row_SD))
        return row_SD

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        for _ in range(2):
            ctx.counter.note("projection (Triton)", size_of(grads[0]))
        return torch.empty(ctx.shape, device=META), None, None, None


def count(
    shape: Shape, row: int, tasks: int, teacher: bool = False, recompute: bool = False, fused: bool = True
) -> dict[str, Any]:
    """One micro-batch, forward and backward.

    Args:
        row: about so many tokens, of prompts of ``tasks`` tasks and samples. teacher: ask one too.
            activation_checkpointing: all layers.
        fused: as the key of the configuration.
    """
    root, batch, counter = model_of(shape, fused), batch_of(row, tasks), Counter()
    if recompute:
        recompute_first(root.backbone, shape.card["num_hidden_layers"])
    shared_LD = torch.empty(LENGTH, shape.card["hidden_size"], device=META, requires_grad=True)

    def fill(tokens_TD: Tensor) -> Tensor:
        return _Row.apply(shared_LD, tokens_TD, tasks, counter)  # type: ignore[no-any-return]

    def loss(weight_VD: Tensor, student_ND: Tensor, teacher_ND: Tensor | None) -> tied_head.HeadLoss:
        counter.phase = "loss"
        return tied_head.tied_head_loss(
            weight_VD,
            student_ND,
            teacher=teacher_ND,
            labels_N=batch.labels_N,
            weights_N=batch.weights_N,
            kl=0.9,
            hidden=0.9,
        )

    with as_on_a_gpu(counter), counter:
        counter.phase = "forward"
        student_ND, found = root.forward_packed(batch, fill, loss, teacher=fill if teacher else None)
        counter.phase = "backward"
        student_ND.backward(found.gradient_ND.to(student_ND.dtype))
    return _summary(counter) | {"row": len(batch.prefix.positions_S), "text": len(batch.ids_T), "tasks": tasks}


def _summary(counter: Counter) -> dict[str, Any]:
    whole, phases, kinds = Cost(), defaultdict[str, Cost](Cost), defaultdict[str, Cost](Cost)
    for (phase, name), cost in counter.costs.items():
        for total in (whole, phases[phase], kinds[name]):
            total.add(cost)
    longest = sorted(kinds.items(), key=lambda kind: -kind[1].seconds)[:12]
    return {
        **asdict(whole),
        "matrix_share": whole.operations / MATRIX / whole.seconds,
        "phases": {name: asdict(cost) for name, cost in phases.items()},
        "longest": {name: asdict(cost) for name, cost in longest},
    }


def told(found: dict[str, Any]) -> str:
    moved, products = found["bytes"] / 1e9, found["operations"] / 1e12
    share = f"matrix products {found['matrix_share']:.2f} of it"
    return (
        f"{found['launches']:,} operators, {moved:.0f} GB, {products:.0f} TFLOP, {1e3 * found['seconds']:.0f} ms, "
        f"{share}"
    )


def cases_of(name: str, shape: Shape, fused: bool) -> list[dict[str, Any]]:
    """A shape's micro-batches, counted and printed."""
    cases = []
    for row, tasks in ROWS.items():
        for stage in ("teach", "distill, teacher asked"):
            found = count(shape, row, tasks, teacher=stage != "teach", fused=fused)
            cases.append({"shape": name, "layers": shape.card["num_hidden_layers"], "stage": stage, **found})
            print(f"{name}, row of {found['row']:,}, {stage}: {told(found)}", flush=True)
            for kind, cost in found["longest"].items():
                moved, seconds = f"{cost['bytes'] / 1e9:8.1f} GB", f"{1e3 * cost['seconds']:8.1f} ms"
                print(f"    {kind:36} {cost['launches']:7,} {moved} {seconds}")
    return cases


def main() -> None:
    protect()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--shapes", default="llama_8b,gpt_oss_20b")
    parser.add_argument("--layers", type=int, default=0, help="number of layers; 0 is all")
    parser.add_argument(
        "--fused", choices=("auto", "off"), default="auto", help="as the configuration key of this name"
    )
    parser.add_argument("--output", type=Path)
    a = parser.parse_args()
    cases = []
    for name in a.shapes.split(","):
        shape = SHAPES[name]
        if a.layers:
            shape = replace(shape, card={**shape.card, "num_hidden_layers": a.layers})
        cases += cases_of(name, shape, a.fused == "auto")
    if a.output:
        modelled = {"matrix_operations_per_s": MATRIX, "memory_bytes_per_s": MEMORY, "launch_s": LAUNCH}
        content = {"cases": cases, "modelled_on": modelled, "versions": library_versions(), "commit": source_commit()}
        a.output.parent.mkdir(parents=True, exist_ok=True)
        a.output.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
