"""Steps whose gradient was not finite: a row that has too many of them running ends the run."""

import torch
from torch import Tensor

from engine.training.stage import Stage


class NonfiniteSteps:
    """Counts them for each row of each optimizer group.

    Args:
        limit: so many running end the run; 0: any number is allowed.
    """

    def __init__(self, stage: Stage, limit: int):
        self.stage, self.limit = stage, limit
        self._running: dict[str, Tensor] = {}

    def count(self, group: str, skipped_K: Tensor, present_K: Tensor) -> None:
        """Take one step in: of ``present_K`` rows those of ``skipped_K`` had a gradient that was not finite."""
        before = self._running.get(group, torch.zeros_like(skipped_K, dtype=torch.int64))
        taking_part = present_K.to(before.device)
        self._running[group] = torch.where(taking_part, torch.where(skipped_K, before + 1, 0), before)

    def check(self, group: str, step: int) -> None:
        """
        Raises:
            RuntimeError: rows of the group have reached the limit; names them.
        """
        if not self.limit or int(self._running[group].max()) < self.limit:
            return
        worst = (self._running[group] >= self.limit).nonzero()[:, 0].tolist()
        names = ["the metaprompt"]
        span = self.stage.groups_of_row[group]
        if span is not None:
            names = [self.stage.rows[span[k]].name for k in worst]
        raise RuntimeError(
            f"{self.stage.name} {step}: the gradient of {', '.join(names[:8])} was not finite in {self.limit} "
            "consecutive steps; lower the learning rate or max_grad_norm, or check the data of these tasks"
        )
