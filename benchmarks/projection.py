"""The projection of prompts into the packed row, forward and backward: our kernels, eager torch, torch.compile, and
PEFT's operation.

    python -m benchmarks.projection --output benchmarks/results/projection_h100.json

Without a GPU only eager torch and PEFT's operation are timed (Triton's interpreter is for tests). PEFT projects once
per sample, we once per task: K tasks in a row of 32 samples, or of K where that is more. Bytes: the fp32 bank read, the
row written and its gradient read, once each.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.common.timing import alternate, run
from prompt_modules import available, packed_row, packed_row_reference

SIZES = {
    "K21 L100 d4096": (21, 100, 1, 4096),
    "K21 L100 d2880": (21, 100, 1, 2880),
    "K64 L200 d4096 R4": (64, 200, 4, 4096),
}
SAMPLES, TOKENS = 32, 60  # of a row, at least one of each task; of a sample


def per_sample(shared: Tensor, cols: Tensor, rows: Tensor, tasks: Tensor, tokens: Tensor) -> Tensor:
    """What PEFT's MultitaskPromptEmbedding computes, and the concatenation and cast that follow."""
    prompts = shared[0].expand(len(tasks), -1, -1) * (cols.index_select(0, tasks) @ rows.index_select(0, tasks))
    return torch.cat([prompts.to(tokens.dtype), tokens.view(len(tasks), -1, tokens.shape[-1])], 1).flatten(0, 1)


def both_ways(project: Callable[..., Tensor], *tensors: Tensor) -> Callable[[], None]:
    with torch.no_grad():
        grad = torch.ones_like(project(*tensors))

    def call() -> None:
        torch.autograd.grad(project(*tensors), tensors[:3], grad)

    return call


def measure(name: str, device: torch.device, repeats: int) -> dict[str, Any]:
    k, length, rank, width = SIZES[name]
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    g = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=g).to(device)  # noqa: E731
    bank = [
        draw(1, length, width).requires_grad_(),
        draw(k, length, rank).requires_grad_(),
        draw(k, rank, width).requires_grad_(),
    ]
    samples = max(SAMPLES, k)
    text = draw(samples * TOKENS, width).to(dtype)
    present, tasks = torch.arange(k, device=device), torch.arange(samples, device=device) % k
    calls: dict[str, Callable[[], object]] = {
        "eager": both_ways(packed_row_reference, *bank, present, text),
        "peft": both_ways(per_sample, *bank, tasks, text),
    }
    if device.type == "cuda":
        calls["compiled"] = both_ways(torch.compile(packed_row_reference), *bank, present, text)
        source = torch.empty(1 << 28, dtype=torch.uint8, device=device)
        target = torch.empty_like(source)
        calls["copy of 256 MiB"] = lambda: target.copy_(source)
        if available(text):
            calls["kernels"] = both_ways(packed_row, *bank, present, text)
    seconds = alternate(calls, repeats, device)
    row = (k * length + len(text)) * width * text.element_size()
    moved = sum(2 * t.numel() * 4 for t in bank) + len(text) * width * text.element_size() + 2 * row
    out: dict[str, Any] = {"size": name, "seconds": seconds, "bytes": moved}
    if "copy of 256 MiB" in seconds and "kernels" in seconds:
        bandwidth = 2 * (1 << 28) / seconds["copy of 256 MiB"]
        out |= {"copy_bytes_per_s": bandwidth, "share_of_copy_bandwidth": moved / seconds["kernels"] / bandwidth}
        out["vs_peft"] = seconds["peft"] / seconds["kernels"]
    return out


if __name__ == "__main__":
    run(__doc__, measure, {"cuda": SIZES, "cpu": SIZES}, 20)
