"""Numbers of a log line, gathered between two of them."""

import math
import time
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from backbones import resident_bytes
from engine.distributed import ShardedBackbone, world_size
from engine.telemetry import utilisation

if TYPE_CHECKING:
    from engine.training.stage import Stage


def peak_bytes() -> int:
    """Most memory this process has held: on the GPU, or resident on the host."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


_STATE = ("steps", "skipped", "tokens", "examples", "norms", "lrs")


class MetricsWindow:
    """What is logged: sums since the last log line."""

    sums: Tensor | None
    norms: dict[str, float]
    lrs: dict[str, float]

    def __init__(self, state: dict[str, Any] | None = None) -> None:
        self._reset()
        if state is None:
            return
        # a checkpoint between two log lines; the clock starts anew, so speed counts what follows only
        for name in _STATE:
            setattr(self, name, state[name])
        if state["sums"] is not None:
            self.sums = torch.tensor(state["sums"], dtype=torch.float64)

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps of the line under way, as JSON."""
        state = {name: getattr(self, name) for name in _STATE}
        state["sums"] = None
        if self.sums is not None:
            state["sums"] = self.sums.tolist()
        return state

    def _reset(self) -> None:
        self.started, self.timed_steps, self.timed_tokens = time.monotonic(), 0, 0
        self.steps, self.skipped, self.tokens = 0, 0, 0
        self.examples: list[int] = []
        self.sums = None
        self.norms = {}
        self.lrs = {}

    def add(self, outcome: dict[str, Tensor], reports: dict[str, Any]) -> None:
        self.steps += 1
        drawn = outcome["examples"].tolist()
        if self.sums is None:
            self.sums, self.examples = outcome["sums"], drawn
        else:
            self.sums = self.sums + outcome["sums"]
            self.examples = [before + now for before, now in zip(self.examples, drawn, strict=True)]
        self.timed_steps += 1
        self.tokens += int(outcome["real_tokens"])
        self.timed_tokens += int(outcome["real_tokens"])
        for name, report in reports.items():
            finite = report.grad_norm_K[report.grad_norm_K.isfinite()]
            self.norms[name] = finite.square().sum().sqrt().item()
            self.lrs[name] = report.lr_K.max().item()
            self.skipped += int(report.skipped_K.sum())

    def take(self, stage: "Stage", start_shared: dict[str, Tensor], backbone: ShardedBackbone) -> dict[str, Any]:
        """The values of a log line, None where one is not finite; starts a new window."""
        assert self.sums is not None
        seconds = max(time.monotonic() - self.started, 1e-9)
        seen = self.sums[:, 3] > 0
        means = self.sums[:, :3] / self.sums[:, 3:].clamp(min=1)
        ce, kl, hidden = (means[seen].mean(0)).tolist()
        by_task: dict[str, list[float]] = {}
        for k in seen.nonzero()[:, 0].tolist():
            by_task.setdefault(stage.rows[k].task, []).append(means[k, 0].item())
        examples: dict[str, int] = {}
        for row, count in zip(stage.rows, self.examples, strict=True):
            examples[row.task] = examples.get(row.task, 0) + count
        gathered = backbone.gathers.take()
        norm, drift = _norm_and_drift(stage, start_shared)
        tokens_per_s = self.timed_tokens / seconds
        values = {
            "loss": ce + stage.weights.kl * kl + stage.weights.hidden * hidden,
            "ce": ce,
            "kl": kl,
            "hidden": hidden,
            "task_ce": {task: sum(losses) / len(losses) for task, losses in by_task.items()},
            "task_examples": examples,
            "lr": max(self.lrs.values()),
            "grad_norm": sum(v * v for v in self.norms.values()) ** 0.5,
            "skipped_rows": self.skipped,
            "prompt_norm": norm,
            "prompt_drift": drift,
            "tokens_per_s": tokens_per_s,
            "device_seconds": seconds * world_size(),
            "real_tokens": self.tokens,
            "mfu": _mfu(backbone, tokens_per_s),
            "gathers": gathered.calls / self.timed_steps,
            "gather_bytes": gathered.bytes / self.timed_steps,
            "resident_bytes": resident_bytes(backbone.model),
        }
        self._reset()
        for key, value in values.items():
            if isinstance(value, float) and not math.isfinite(value):
                values[key] = None
        return values


def _norm_and_drift(stage: "Stage", start_shared: dict[str, Tensor]) -> tuple[float, float]:
    """Norm of all prompts and metaprompts, and how far the metaprompts have moved from ``start_shared``."""
    norms, drifts = [], []
    for name, parameter in stage.bank.named_parameters():
        value = parameter.detach()
        if "shared" in name or "prompts" in name:
            norms.append(value.norm())
        if name in start_shared:
            drifts.append((value - start_shared[name]).norm().item())
    norm = 0.0
    if norms:
        norm = torch.stack(norms).norm().item()
    return norm, sum(drifts)


def _mfu(backbone: ShardedBackbone, tokens_per_s: float) -> float | None:
    """The part of the devices' peak that is used; None where it is not known."""
    if backbone.sizes is None:
        return None
    return utilisation(backbone.sizes, real_tokens_per_s=tokens_per_s, peak=backbone.peak, ranks=world_size())
