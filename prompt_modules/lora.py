"""LoRA as rows of a bank: the baseline that methods of prompts are held against, trained in the same pass.

A row has no prompt but a low-rank update of each linear layer, y = W x + B_k A_k x (Hu et al., arXiv 2106.09685),
without a scale: alpha = r, for under Adam another scale is another learning rate. A starts as PEFT's does, uniform
within 1 / sqrt(inputs), B at zero.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import grouped_mm

from prompt_modules.bank import LinearUpdate, master


class LoraBank(nn.Module):
    """Low-rank updates of the named linear layers, one of each per row.

    Args:
        prompts_KLD: (K, 0, D), which says what an empty prompt is.
        down, up: layer -> A (K, r, inputs), B (K, outputs, r), any float dtype; kept as fp32 or wider.
    """

    def __init__(self, prompts_KLD: Tensor, down: Mapping[str, Tensor], up: Mapping[str, Tensor]):
        super().__init__()
        self.prompts_KLD = nn.Parameter(master(prompts_KLD), requires_grad=False)
        self.down = nn.ParameterDict({_key(n): nn.Parameter(master(t)) for n, t in down.items()})
        self.up = nn.ParameterDict({_key(n): nn.Parameter(master(t)) for n, t in up.items()})

    def prompts(self, rows_B: Tensor) -> Tensor:
        return self.prompts_KLD[rows_B]

    def packed_sequence(self, rows_K: Tensor, tokens_TD: Tensor) -> Tensor:
        return tokens_TD

    def length(self, row: int) -> int:
        return 0

    def updates(self, rows: Sequence[int], sizes: Sequence[int]) -> LinearUpdate:
        stretches: list[tuple[int, int, int]] = []
        begin = 0
        for row, size in zip(rows, sizes, strict=True):
            if stretches and stretches[-1][0] == row:
                stretches[-1] = row, stretches[-1][1], begin + size
            else:
                stretches.append((row, begin, begin + size))
            begin += size

        together = _Stretches(stretches)

        def update(name: str, x: Tensor, out: Tensor) -> Tensor:
            key = _key(name)
            if key not in self.down:
                return out
            down, up = self.down[key], self.up[key]
            if len(stretches) > 1 and _grouped(x, down, up):
                return _GroupedUpdate.apply(x, out, down, up, together)  # type: ignore[no-any-return, no-untyped-call]
            places = stretches
            if len(stretches) == 1:
                places = [(stretches[0][0], 0, x.shape[:-1].numel())]
            return _Update.apply(x, out, down, up, places)  # type: ignore[no-any-return, no-untyped-call]

        return update

    def numbers_per_row(self) -> int:
        """How many trainable numbers belong to one adapted task."""
        return sum(p[0].numel() for p in self.parameters())

    def layers(self) -> dict[str, tuple[nn.Parameter, nn.Parameter]]:
        """Layer -> A and B of all rows."""
        return {layer_name(key): (self.down[key], self.up[key]) for key in self.down}


def lora_start(
    rows: int, shapes: Mapping[str, tuple[int, int]], rank: int, hidden: int, generators: Sequence[torch.Generator]
) -> LoraBank:
    """A bank whose rows change nothing yet.

    Args:
        shapes: layer -> (outputs, inputs). generators: one a row, which draws its A, layer by layer.
    """
    down = {name: torch.empty(rows, rank, inputs) for name, (_, inputs) in shapes.items()}
    for k, generator in enumerate(generators):
        for tensor in down.values():
            bound = tensor.shape[-1] ** -0.5
            tensor[k].uniform_(-bound, bound, generator=generator)
    up = {name: torch.zeros(rows, outputs, rank) for name, (outputs, _) in shapes.items()}
    return LoraBank(torch.zeros(rows, 0, hidden), down, up)


class _Update(torch.autograd.Function):
    """out + B_k A_k x, stretch by stretch of tokens. What the backward pass finds for A and B goes into their ``grad``
    at row k alone: a gradient of the whole bank for each layer and micro-batch would be zeros but for a few rows.
    """

    @staticmethod
    def forward(ctx, x, out, down_KRI, up_KOR, stretches):  # type: ignore[no-untyped-def]
        flat, y = x.reshape(-1, x.shape[-1]), out.reshape(-1, out.shape[-1]).clone()
        for k, begin, end in stretches:
            inner = flat[begin:end] @ down_KRI[k].T.to(x.dtype)
            y[begin:end].addmm_(inner, up_KOR[k].T.to(x.dtype))
        ctx.save_for_backward(x)
        ctx.layer, ctx.stretches = (down_KRI, up_KOR), stretches
        return y.view_as(out)

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        (x,), (down, up) = ctx.saved_tensors, ctx.layer
        flat, dy = x.reshape(-1, x.shape[-1]), grad.reshape(-1, grad.shape[-1])
        dx: Tensor | None = None
        if ctx.needs_input_grad[0]:
            dx = torch.zeros_like(flat)
        for parameter in (down, up):
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        for k, begin, end in ctx.stretches:
            a, b, rows, dy_k = down[k].to(x.dtype), up[k].to(x.dtype), flat[begin:end], dy[begin:end]
            back = dy_k @ b
            down.grad[k] += (back.T @ rows).to(down.dtype)
            up.grad[k] += (dy_k.T @ (rows @ a.T)).to(up.dtype)
            if dx is not None:
                dx[begin:end] = back @ a
        if dx is not None:
            dx = dx.view_as(x)
        return dx, grad, None, None, None


class _Stretches:
    """Of a row's tokens, each stretch of one task: its bank row, and where it ends. On the device once, for all
    layers; the host does not wait.
    """

    def __init__(self, stretches: Sequence[tuple[int, int, int]]):
        self._rows, self._ends = [k for k, _, _ in stretches], [end for _, _, end in stretches]
        self._there: tuple[Tensor, Tensor] | None = None

    def on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """int64 (G,) bank rows, int32 (G,) ends."""
        if self._there is None:
            made = torch.tensor(self._rows), torch.tensor(self._ends, dtype=torch.int32)
            if device.type == "cuda":
                made = made[0].pin_memory(), made[1].pin_memory()
            self._there = made[0].to(device, non_blocking=True), made[1].to(device, non_blocking=True)
        return self._there


class _GroupedUpdate(torch.autograd.Function):
    """As ``_Update``, all stretches in one grouped product each: sixteen tasks would be sixteen times the launches. A
    stretch meets its own A and B alone, so a task's NaN stays its own.
    """

    @staticmethod
    def forward(ctx, x, out, down_KRI, up_KOR, stretches):  # type: ignore[no-untyped-def]
        rows, ends = stretches.on(x.device)
        flat, y = x.reshape(-1, x.shape[-1]), out.reshape(-1, out.shape[-1])
        inner = grouped_mm(flat, down_KRI[rows].to(x.dtype).transpose(1, 2), offs=ends)
        ctx.save_for_backward(x)
        ctx.layer, ctx.stretches = (down_KRI, up_KOR), stretches
        return (y + grouped_mm(inner, up_KOR[rows].to(x.dtype).transpose(1, 2), offs=ends)).view_as(out)

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        (x,), (down, up) = ctx.saved_tensors, ctx.layer
        rows, ends = ctx.stretches.on(x.device)
        flat, dy = x.reshape(-1, x.shape[-1]), grad.reshape(-1, grad.shape[-1]).contiguous()
        a, b = down[rows].to(x.dtype), up[rows].to(x.dtype)
        back, inner = grouped_mm(dy, b, offs=ends), grouped_mm(flat, a.transpose(1, 2), offs=ends)
        for parameter, found in ((down, grouped_mm(back.T, flat, offs=ends)), (up, grouped_mm(dy.T, inner, offs=ends))):
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            parameter.grad.index_add_(0, rows, found.to(parameter.dtype))
        dx: Tensor | None = None
        if ctx.needs_input_grad[0]:
            dx = grouped_mm(back, a, offs=ends).view_as(x)
        return dx, grad, None, None, None


def _grouped(x: Tensor, down_KRI: Tensor, up_KOR: Tensor) -> bool:
    """Whether the device multiplies several stretches in one call; it wants rows of 16 bytes."""
    widths = (*down_KRI.shape[1:], *up_KOR.shape[1:])
    return x.is_cuda and x.dtype == torch.bfloat16 and all(n % 8 == 0 for n in widths)


def _key(name: str) -> str:
    return name.replace(".", "-")  # a parameter's name knows no dots


def layer_name(key: str) -> str:
    """Of a parameter's name."""
    return key.replace("-", ".")
