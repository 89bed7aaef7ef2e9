"""A step of K LoRA adapters on K tasks' samples: ours, rows of one bank in packed rows, and stock PEFT's, adapter after
adapter.

    python -m benchmarks.lora --output benchmarks/results/lora_cpu.json

PEFT trains one adapter of a model at a time; it gets length-grouped batches of the same token budget, SDPA attention
and HF's own loss. Both begin from the same numbers, all linear layers but the head, r = 16, eight samples a task; the
losses of both are compared before anything is timed. Forward and backward passes alone, no optimizer.
"""

from dataclasses import replace
from typing import Any

import torch

from backbones.layers import unfuse
from benchmarks.common.timing import alternate, run
from benchmarks.common.workload import SHAPES, Workload
from engine.benchmarking import padded_ids
from engine.data import padded_groups
from engine.training import ForwardBackward, LossWeights
from prompt_modules import lora_start

RANK, BUDGET = 16, 4096
SIZES: dict[str, dict[str, Any]] = {
    "pocket, 4 tasks": {"shape": "pocket", "tasks": 4},
    "pocket, 16 tasks": {"shape": "pocket", "tasks": 16},
    "cpu_mid, 4 tasks": {"shape": "cpu_mid", "tasks": 4},
}
GPU_SIZES: dict[str, dict[str, Any]] = {
    "llama_8b, 4 tasks": {"shape": "llama_8b", "tasks": 4},
    "llama_8b, 16 tasks": {"shape": "llama_8b", "tasks": 16},
}


def measure(name: str, device: torch.device, repeats: int) -> dict[str, Any]:
    from peft import LoraConfig, get_peft_model

    size = (SIZES | GPU_SIZES)[name]
    shape = replace(SHAPES[size["shape"]], tasks=size["tasks"], samples=8 * size["tasks"])
    work, theirs_work = Workload(shape, "short", device), Workload(shape, "short", device)
    hidden, generator = shape.card["hidden_size"], torch.Generator().manual_seed(1)
    bank = lora_start(
        shape.tasks,
        work.backbone.updates.shapes,
        rank=RANK,
        hidden=hidden,
        generators=[torch.Generator().manual_seed(k) for k in range(shape.tasks)],
    )
    with torch.no_grad():
        for _, up in bank.layers().values():
            up.copy_(0.02 * torch.randn(up.shape, generator=generator))
    bank.to(device)
    model: Any = theirs_work.backbone.model
    unfuse(model)  # PEFT's users have transformers' own operators, on a GPU too
    model.config._attn_implementation = "sdpa"
    model = get_peft_model(
        model, LoraConfig(r=RANK, lora_alpha=RANK, target_modules="all-linear", task_type="CAUSAL_LM"), adapter_name="0"
    )
    for k in range(1, shape.tasks):
        model.add_adapter(str(k), model.peft_config["0"])
    layers = dict(model.named_modules())
    with torch.no_grad():
        for layer, (down, up) in bank.layers().items():
            for k in range(shape.tasks):
                layers[f"base_model.model.{layer}"].lora_A[str(k)].weight.copy_(down[k])
                layers[f"base_model.model.{layer}"].lora_B[str(k)].weight.copy_(up[k])
    batches = []
    for k in range(shape.tasks):
        own = [item for item in work.samples if item.row == k]
        batches.append(
            [
                padded_ids(group, device)
                for group in padded_groups(own, prompt_length=0, max_tokens_per_micro_batch=BUDGET, world=1)
            ]
        )
    forward_backward = ForwardBackward(work.backbone, True, BUDGET, 0, 1)

    def ours() -> float:
        bank.zero_grad()
        total = 0.0
        for group in forward_backward.micro_batches(work.samples, bank):
            terms = forward_backward.train(group, bank, weights=LossWeights(), teachers=None, cached=None)
            total += float((terms.ce_N.double() * terms.weights_N).sum())
        return total / shape.tasks

    def peft() -> float:
        model.zero_grad()
        total = 0.0
        for k, of_task in enumerate(batches):
            model.set_adapter(str(k))
            tokens = sum(int((b.labels_BT != -100).sum()) for b in of_task)
            for ids, mask, labels, _ in of_task:
                share = int((labels != -100).sum()) / tokens
                loss = model(input_ids=ids, attention_mask=mask, labels=labels, use_cache=False).loss * share
                loss.backward()
                total += loss.item()
        return total / shape.tasks

    losses = ours(), peft()
    if abs(losses[0] - losses[1]) > 2e-3 * abs(losses[1]):
        raise AssertionError(f"{name}: the losses differ, {losses}: not the same work")
    seconds = alternate({"ours": ours, "peft": peft}, repeats, device)
    print(f"{name}: ours {seconds['peft'] / seconds['ours']:.2f} times as fast")
    return {
        "size": name,
        **size,
        "rank": RANK,
        "samples": shape.samples,
        "real_tokens": work.real_tokens,
        "losses": losses,
        "seconds": seconds,
        "ratio": seconds["peft"] / seconds["ours"],
    }


if __name__ == "__main__":
    run(__doc__, measure, {"cuda": GPU_SIZES, "cpu": SIZES}, 5)
