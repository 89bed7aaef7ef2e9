"""Linear layers of a sharded, frozen backbone keep nothing for the backward pass.

dL/dx = dL/dy W needs the weight alone. torch's linear would keep the gathered weight alive; DeepSpeed's ZeRO-3 linear
keeps its input too, for a gradient of the weight that nobody asks for: a quarter of a Llama's activations. This one
holds the Parameter, which ZeRO-3 gathers again before the backward pass.
"""

from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn


def keep_no_inputs(model: nn.Module, head: nn.Module) -> None:
    """Let every ``nn.Linear`` of the model but ``head`` compute this way."""
    for module in model.modules():
        if type(module) is nn.Linear and module is not head:
            module.forward = MethodType(_forward, module)  # type: ignore[method-assign]


def _forward(self: nn.Linear, x: Tensor) -> Tensor:
    return _FrozenLinear.apply(x, self)  # type: ignore[no-any-return, no-untyped-call]


class _FrozenLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: nn.Linear) -> Tensor:
        ctx.layer = layer
        rows = x.flatten(0, -2)
        out = torch.mm(rows, layer.weight.T) if layer.bias is None else torch.addmm(layer.bias, rows, layer.weight.T)
        return out.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0] @ ctx.layer.weight, None
