"""Cross-entropy and KL through the frozen head, with the gradient of its inputs: ours, plain torch, and Liger's fused
cross-entropy.

    python -m benchmarks.loss --output benchmarks/results/loss_cpu.json

Sizes are answer tokens x hidden x vocabulary. Liger (a GPU, `pip install liger-kernel`) has no KL with a frozen head of
the same weights for both sides; its fused linear cross-entropy is timed where no teacher is asked.
"""

import importlib.util
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.common.timing import alternate, run
from prompt_modules import distillation_terms, teacher_states, tied_head_loss

SIZES = {
    "cuda": {"Llama-8B": (2048, 4096, 128_256), "gpt-oss-20B": (2048, 2880, 201_088)},
    "cpu": {"cpu_mid": (384, 512, 32_000), "wide": (256, 512, 128_256)},
}


def plain(weight: Tensor, student: Tensor, teacher: Tensor | None, labels: Tensor) -> Callable[[], None]:
    """Whole logits and autograd."""
    leaf = student.detach().requires_grad_()

    def call() -> None:
        logits = F.linear(leaf, weight)
        if teacher is None:
            loss = F.cross_entropy(logits.float(), labels, reduction="sum")
        else:
            with torch.no_grad():
                taught = F.linear(teacher, weight)
            terms = distillation_terms(
                logits,
                teacher_logits_NV=taught,
                student_hidden_ND=leaf,
                teacher_hidden_ND=teacher,
                labels_N=labels,
                temperature=1.0,
            )
            loss = (terms.ce_N + 0.9 * terms.kl_N + 0.9 * terms.hidden_N).sum()
        torch.autograd.grad(loss, leaf)

    return call


def ours(weight: Tensor, student: Tensor, teacher: Any, labels: Tensor) -> Callable[[], object]:
    ones = torch.ones(len(labels), device=labels.device)
    return lambda: tied_head_loss(
        weight, student_ND=student, teacher=teacher, labels_N=labels, weights_N=ones, kl=0.9, hidden=0.9
    )


def liger(weight: Tensor, student: Tensor, labels: Tensor) -> Callable[[], object] | None:
    if not student.is_cuda or importlib.util.find_spec("liger_kernel") is None:
        return None
    from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

    fused, leaf = LigerFusedLinearCrossEntropyLoss(reduction="sum"), student.detach().requires_grad_()
    return lambda: torch.autograd.grad(fused(weight, leaf, labels), leaf)


def measure(name: str, device: torch.device, repeats: int) -> dict[str, Any]:
    n, hidden, vocabulary = SIZES[device.type][name]
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    g = torch.Generator().manual_seed(0)
    weight = (torch.randn(vocabulary, hidden, generator=g) * 0.05).to(device, dtype)
    student, teacher = (torch.randn(n, hidden, generator=g).to(device, dtype) for _ in range(2))
    labels = torch.randint(0, vocabulary, (n,), generator=g).to(device)
    calls: dict[str, Callable[[], object]] = {
        "ce: plain": plain(weight, student, None, labels),
        "ce: ours": ours(weight, student, None, labels),
        "distil: plain": plain(weight, student, teacher, labels),
        "distil: ours": ours(weight, student, teacher, labels),
        "distil: ours, teacher cached": ours(weight, student, teacher_states(weight, teacher), labels),
    }
    fused = liger(weight, student, labels)
    if fused is not None:
        calls["ce: liger"] = fused
    seconds = alternate(calls, repeats, device)
    out: dict[str, Any] = {
        "size": name,
        "answer_tokens": n,
        "hidden": hidden,
        "vocabulary": vocabulary,
        "seconds": seconds,
    }
    if device.type == "cuda":
        out["peak_bytes"] = {k: _peak(call) for k, call in calls.items()}
    return out


def _peak(call: Callable[[], object]) -> int:
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    call()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


if __name__ == "__main__":
    run(__doc__, measure, SIZES, 7)
