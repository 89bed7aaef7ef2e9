"""AdamW by row of the bank: each row has its own step count, schedule, clip, skip and stop.

Since the backbone is frozen, tasks meet only in the optimizer. With per-row state, a row's trajectory in a mixed run is the one
it would have had alone. (One shared step count made a task that was absent from half the steps end 9 % away from itself.)
"""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

SCHEDULES = ("constant", "linear", "cosine")


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
    moments: dict[str, tuple[Tensor, Tensor]] = field(init=False)

    def __post_init__(self) -> None:
        if self.schedule not in SCHEDULES:
            raise ValueError(f"schedule {self.schedule!r}: one of {', '.join(SCHEDULES)}")
        first = next(iter(self.parameters.values()))
        n_rows, device = len(first), first.device
        if any(len(p) != n_rows for p in self.parameters.values()):
            raise ValueError("the parameters of a row group must have equally many rows")
        self.lr = torch.as_tensor(self.lr, dtype=torch.float64, device=device).expand(n_rows).clone()
        self.total_steps = torch.as_tensor(self.total_steps, device=device).expand(n_rows).clone()
        self.active_K = torch.ones(n_rows, dtype=torch.bool, device=device)
        self.steps_K = torch.zeros(n_rows, dtype=torch.int64, device=device)
        self.moments = {name: (torch.zeros_like(p), torch.zeros_like(p)) for name, p in self.parameters.items()}

    def lr_K(self) -> Tensor:
        """The learning rate of each row's next step, fp64 (K,)."""
        done = self.steps_K.double()
        warm = ((done + 1) / max(self.warmup_steps, 1)).clamp(max=1) if self.warmup_steps else torch.ones_like(done)
        total = torch.as_tensor(self.total_steps)
        left = ((total - done) / (total - self.warmup_steps).clamp(min=1)).clamp(0, 1)
        decay = {"constant": torch.ones_like(left), "linear": left, "cosine": 0.5 - 0.5 * torch.cos(math.pi * left)}[self.schedule]
        return self.lr * warm * decay


@dataclass(frozen=True)
class StepReport:
    """What a step did to each row of a group, all (K,): gradient norm before the clip, learning rate used, whether it was skipped."""

    grad_norm_K: Tensor
    lr_K: Tensor
    skipped_K: Tensor


class RowwiseAdamW:
    """Adam with decoupled weight decay of 0, bias-corrected by each row's own step count (arXiv 1412.6980).

    A row that is absent, stopped, or whose gradient is not finite is left untouched, moments too. There is no weight decay:
    pulling factors towards 0 would erase the metaprompt.
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
        grads = {n: p.grad if p.grad is not None else torch.zeros_like(p) for n, p in group.parameters.items()}
        # fp64: a row's norm must not depend on how many other rows are reduced beside it
        norm_K = torch.stack([g.flatten(1).double().square().sum(1) for g in grads.values()]).sum(0).sqrt()
        finite_K = norm_K.isfinite()
        moving_K = present_K & group.active_K & finite_K
        lr_K = group.lr_K()
        scale_K = (group.clip / norm_K.clamp(min=1e-12)).clamp(max=1) if group.clip else torch.ones_like(norm_K)
        group.steps_K += moving_K
        rows = moving_K.nonzero()[:, 0]  # once a group: on a GPU the host waits for it
        for name, parameter in group.parameters.items() if len(rows) else ():
            self._move(parameter, grads[name], group.moments[name], rows, scale_K, lr_K, group.steps_K)
        return StepReport(norm_K, lr_K, present_K & group.active_K & ~finite_K)

    def _move(self, parameter: Tensor, grad: Tensor, moments: tuple[Tensor, Tensor], rows, scale_K, lr_K, steps_K) -> None:
        def by_row(values_K: Tensor) -> Tensor:
            return values_K[rows].to(parameter.dtype).view(-1, *[1] * (parameter.dim() - 1))

        g = grad[rows] * by_row(scale_K)
        first, second = moments
        beta1, beta2 = self.betas
        first[rows] = first[rows] * beta1 + g * (1 - beta1)
        second[rows] = second[rows] * beta2 + g.square() * (1 - beta2)
        m = first[rows] / by_row(1 - beta1 ** steps_K.double())
        v = second[rows] / by_row(1 - beta2 ** steps_K.double())
        parameter[rows] -= by_row(lr_K) * m / (v.sqrt() + self.eps)

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
