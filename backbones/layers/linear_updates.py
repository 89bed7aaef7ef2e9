"""Linear layers of a frozen backbone that give out more than W x while somebody asks them to: where LoRA's rows
come in.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor, nn

Update = Callable[[str, Tensor, Tensor], Tensor]  # a layer's name, its inputs, its outputs -> its outputs


class LinearUpdates:
    """Opens every ``nn.Linear`` of a model but its head: the layers that PEFT calls all-linear.

    Attributes:
        shapes: layer -> (outputs, inputs).
    """

    def __init__(self, model: nn.Module, head: nn.Module):
        self._update: Update | None = None
        self.shapes: dict[str, tuple[int, int]] = {}
        for name, module in model.named_modules():
            if type(module) is nn.Linear and module is not head:
                self.shapes[name] = (module.out_features, module.in_features)
                module.forward = self._opened(name, module.forward)  # type: ignore[method-assign]

    @contextlib.contextmanager
    def during(self, update: Update | None) -> Iterator[None]:
        """Within, and in backward passes within, for layers may be computed again there."""
        before, self._update = self._update, update
        try:
            yield
        finally:
            self._update = before

    def _opened(self, name: str, plain: Callable[[Tensor], Tensor]) -> Callable[..., Any]:
        def forward(x: Tensor) -> Tensor:
            out = plain(x)
            if self._update is None:
                return out
            return self._update(name, x, out)

        return forward
