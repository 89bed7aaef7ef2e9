"""AdamW by row of the bank: each row has its own step count, schedule, clip, skip and stop.

Since the backbone is frozen, tasks meet only in the optimizer. With per-row state, a row's trajectory in a mixed run is
the one it would have had alone. (One shared step count made a task that was absent from half the steps end 9 % away
from itself.)
"""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

SCHEDULES = ("constant", "linear", "cosine")
# Numbers that one operation works on at most, a larger parameter aside. On a GPU few launches matter, and a step takes
# about 24 bytes a number beside its tensors. On a CPU the chunk has to stay in the cache.
CHUNK_NUMBERS = {"cpu": 2**18}
CHUNK_NUMBERS_ELSEWHERE = 2**24


@dataclass(frozen=True)
class Chunk:
    """P parameters of one shape and type that are stepped together, with their moments, each (P, K, ...)."""

    names: list[str]
    first: Tensor
    second: Tensor


def chunks_of(parameters: dict[str, nn.Parameter]) -> list[Chunk]:
    """All parameters in chunks of equal shapes, with moments of zero."""
    alike: dict[tuple[torch.Size, torch.dtype], list[str]] = {}
    for name, parameter in parameters.items():
        alike.setdefault((parameter.shape, parameter.dtype), []).append(name)
    chunks = []
    for (shape, dtype), names in alike.items():
        device = parameters[names[0]].device
        size = max(1, CHUNK_NUMBERS.get(device.type, CHUNK_NUMBERS_ELSEWHERE) // max(1, shape.numel()))
        for start in range(0, len(names), size):
            own = names[start : start + size]
            first, second = (torch.zeros(len(own), *shape, dtype=dtype, device=device) for _ in range(2))
            chunks.append(Chunk(own, first, second))
    return chunks


def stacked(tensors: list[Tensor]) -> Tensor:
    """(P, K, ...); a view where there is one tensor, so that a large bank is not copied."""
    if len(tensors) == 1:
        return tensors[0][None]
    return torch.stack(tensors)


@dataclass
class RowGroup:
    """Parameters that share rows: row k of each belongs to one task and is clipped, skipped and stopped as one.

    Args:
        parameters: name -> parameter with the rows in front, (K, ...).
        lr: peak learning rate, one for all rows or (K,).
        total_steps: length of the decay, counted in the row's own steps; one for all or (K,).
        warmup_steps: linear warm-up, in the row's own steps.
        schedule: after warm-up ``constant``, or ``linear`` / ``cosine`` decay to zero at total_steps.
        clip: largest L2 norm of a row's gradient over all parameters of the group; 0 turns it off.
    """

    parameters: dict[str, nn.Parameter]
    lr: float | Tensor
    total_steps: int | Tensor
    warmup_steps: int = 0
    schedule: str = "constant"
    clip: float = 1.0
    active_K: Tensor = field(init=False)
    steps_K: Tensor = field(init=False)
    chunks: list[Chunk] = field(init=False)

    def __post_init__(self) -> None:
        if self.schedule not in SCHEDULES:
            raise ValueError(f"schedule: must be one of {', '.join(SCHEDULES)}; got {self.schedule!r}")
        first = next(iter(self.parameters.values()))
        n_rows, device = len(first), first.device
        if any(len(p) != n_rows for p in self.parameters.values()):
            raise ValueError("the parameters of a row group must have equally many rows")
        self.lr = torch.as_tensor(self.lr, dtype=torch.float64, device=device).expand(n_rows).clone()
        self.total_steps = torch.as_tensor(self.total_steps, device=device).expand(n_rows).clone()
        self.active_K = torch.ones(n_rows, dtype=torch.bool, device=device)
        self.steps_K = torch.zeros(n_rows, dtype=torch.int64, device=device)
        self.clear_moments()

    def clear_moments(self) -> None:
        """New moments of zero, in the type that the parameters have now."""
        self.chunks = chunks_of(self.parameters)

    @property
    def moments(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Name -> first and second moment of a parameter, as windows into its chunk."""
        found = {}
        for chunk in self.chunks:
            for name, first, second in zip(chunk.names, chunk.first.unbind(), chunk.second.unbind(), strict=True):
                found[name] = (first, second)
        return {name: found[name] for name in self.parameters}

    def lr_K(self) -> Tensor:
        """The learning rate of each row's next step, fp64 (K,)."""
        done = self.steps_K.double()
        warm = ((done + 1) / self.warmup_steps).clamp(max=1) if self.warmup_steps else torch.ones_like(done)
        total = torch.as_tensor(self.total_steps)
        left = ((total - done) / (total - self.warmup_steps).clamp(min=1)).clamp(0, 1)
        decay = torch.ones_like(left)
        if self.schedule == "linear":
            decay = left
        elif self.schedule == "cosine":
            decay = 0.5 - 0.5 * torch.cos(math.pi * left)
        return self.lr * warm * decay


@dataclass(frozen=True)
class StepReport:
    """What a step did to each row of a group, all (K,): gradient norm before the clip, learning rate used, whether
    it was skipped.
    """

    grad_norm_K: Tensor
    lr_K: Tensor
    skipped_K: Tensor


def _norm_K(chunks: list[Chunk], grads: dict[str, Tensor]) -> Tensor:
    """L2 norm of each row's gradient over all parameters, summed in the order of ``grads``.

    In fp64: a row's norm must not depend on how many other rows are reduced beside it.
    """
    squares: dict[str, Tensor] = {}
    for chunk in chunks:
        whole = stacked([grads[n] for n in chunk.names]).to(torch.float64, copy=True).square_()
        squares.update(zip(chunk.names, whole.flatten(2).sum(2).unbind()))
    return torch.stack([squares[n] for n in grads]).sum(0).sqrt()


class RowwiseAdamW:
    """Adam with decoupled weight decay of 0, bias-corrected by each row's own step count (arXiv 1412.6980).

    A row that is absent, stopped, or whose gradient is not finite is left untouched, moments too. There is no weight
    decay: pulling factors towards 0 would erase the metaprompt.
    """

    def __init__(self, groups: dict[str, RowGroup], betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8):
        self.groups, self.betas, self.eps = groups, betas, eps

    @torch.no_grad()
    def step(self, present: dict[str, Tensor]) -> dict[str, StepReport]:
        """One step of every group from ``parameter.grad``; clears the gradients.

        Args:
            present: group name -> bool (K,), the rows that had samples in this global step.
        """
        reports = {}
        for name, group in self.groups.items():
            reports[name] = self._step_group(group, present[name].to(group.active_K.device))
            for parameter in group.parameters.values():
                parameter.grad = None
        return reports

    def _step_group(self, group: RowGroup, present_K: Tensor) -> StepReport:
        grads = {}
        for name, parameter in group.parameters.items():
            grads[name] = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        norm_K = _norm_K(group.chunks, grads)
        finite_K = norm_K.isfinite()
        moving_K = present_K & group.active_K & finite_K
        lr_K = group.lr_K()
        scale_K = (group.clip / norm_K.clamp(min=1e-12)).clamp(max=1) if group.clip else torch.ones_like(norm_K)
        group.steps_K += moving_K
        moving = moving_K.nonzero()[:, 0]  # once a group: on a GPU the host waits for it
        if len(moving):
            corrections = [1 - beta ** group.steps_K.double() for beta in self.betas]
            factors = torch.stack([scale_K, *corrections, lr_K])
            rows: Tensor | None = None
            if len(moving) < len(moving_K):
                rows, factors = moving, factors[:, moving]
            for chunk in group.chunks:
                parameters: list[Tensor] = [group.parameters[name] for name in chunk.names]
                own = [grads[name] for name in chunk.names]
                self._move(chunk, parameters, grads=own, rows=rows, factors_4R=factors)
        return StepReport(norm_K, lr_K, present_K & group.active_K & ~finite_K)

    def _move(
        self, chunk: Chunk, parameters: list[Tensor], grads: list[Tensor], rows: Tensor | None, factors_4R: Tensor
    ) -> None:
        """Step the chosen rows of a chunk; ``rows`` is None for all of them, which needs no copy of the moments."""
        shape = (4, 1, -1, *[1] * (chunk.first.dim() - 2))
        scale, correction1, correction2, lr = factors_4R.to(chunk.first.dtype).view(shape)
        at = rows if rows is not None else slice(None)
        beta1, beta2 = self.betas
        g = stacked(grads)[:, at] * scale
        first, second = chunk.first[:, at], chunk.second[:, at]
        first.mul_(beta1).add_(g * (1 - beta1))
        second.mul_(beta2).add_(g.square_().mul_(1 - beta2))
        if rows is not None:
            chunk.first[:, rows], chunk.second[:, rows] = first, second
        update = (first / correction1).mul_(lr).div_((second / correction2).sqrt_().add_(self.eps))
        if len(parameters) == 1:
            parameters[0][at] -= update[0]
            return
        if rows is not None:  # 0 for the other rows: subtracting it leaves every bit of them
            update = torch.zeros_like(chunk.first).index_copy_(1, rows, update)
        torch._foreach_sub_(parameters, list(update.unbind()))

    def state_dict(self) -> dict[str, Tensor]:
        """Flat name -> tensor, ready for safetensors: moments, step counts and active flags of every group."""
        state = {}
        for name, group in self.groups.items():
            state[f"{name}.steps_K"] = group.steps_K.clone()
            state[f"{name}.active_K"] = group.active_K.clone()
            for parameter, (first, second) in group.moments.items():
                state[f"{name}.{parameter}.first"] = first.clone()
                state[f"{name}.{parameter}.second"] = second.clone()
        return state

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """The inverse of ``state_dict``; raises KeyError / RuntimeError if names or shapes differ."""
        own = self.state_dict()
        if own.keys() != state.keys():
            raise KeyError(f"optimizer state differs in {sorted(own.keys() ^ state.keys())}")
        for name, group in self.groups.items():
            group.steps_K.copy_(state[f"{name}.steps_K"])
            group.active_K.copy_(state[f"{name}.active_K"])
            for parameter, (first, second) in group.moments.items():
                first.copy_(state[f"{name}.{parameter}.first"])
                second.copy_(state[f"{name}.{parameter}.second"])
