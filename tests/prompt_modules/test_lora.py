"""LoRA's rows: all tasks of a packed row in grouped products against one task after the other."""

import pytest
import torch
from torch import Tensor

from prompt_modules import lora
from prompt_modules.lora import LoraBank

ROWS, SIZES = [2, 0, 4], [3, 1, 7]  # bank rows of the samples' stretches, and their tokens


def bank() -> LoraBank:
    g = torch.Generator().manual_seed(0)
    return LoraBank(
        torch.zeros(5, 0, 8), {"a.q": torch.randn(5, 4, 8, generator=g)}, {"a.q": torch.randn(5, 16, 4, generator=g)}
    )


def step(
    x: Tensor, weights: Tensor, grouped: bool, monkeypatch: pytest.MonkeyPatch, spoiled: bool = False
) -> list[Tensor]:
    """Output, the gradient of the inputs, and of all rows of A and B."""
    monkeypatch.setattr(lora, "_grouped", lambda *_: grouped)
    own, given = bank(), x.clone().requires_grad_()
    if spoiled:
        own.up["a-q"].data[0] = torch.nan
    update = own.updates(ROWS, SIZES)
    out = update("a.q", given, torch.zeros(1, sum(SIZES), 16))
    assert update("a.k", given, out) is out  # no row of that layer
    (out * weights).nan_to_num(0).sum().backward()
    down, up = own.layers()["a.q"]
    assert given.grad is not None and down.grad is not None and up.grad is not None
    return [out.detach(), given.grad, down.grad, up.grad]


def test_grouped_products_equal_one_task_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    g = torch.Generator().manual_seed(1)
    x, weights = torch.randn(1, 11, 8, generator=g), torch.randn(1, 11, 16, generator=g)
    for a, b in zip(step(x, weights, True, monkeypatch), step(x, weights, False, monkeypatch), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    absent = [1, 3]
    assert all((found[absent] == 0).all() for found in step(x, weights, True, monkeypatch)[2:])


def test_a_gradient_is_added_to_what_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lora, "_grouped", lambda *_: True)
    own, x = bank(), torch.randn(1, 11, 8, generator=torch.Generator().manual_seed(1))
    found = []
    for _ in range(2):
        own.updates(ROWS, SIZES)("a.q", x, torch.zeros(1, 11, 16, requires_grad=True)).sum().backward()
        found.append(own.down["a-q"].grad.clone())
    torch.testing.assert_close(found[1], 2 * found[0])


@pytest.mark.parametrize("grouped", [True, False])
def test_a_nan_stays_its_own_task_s(grouped: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    g = torch.Generator().manual_seed(1)
    x, weights = torch.randn(1, 11, 8, generator=g), torch.randn(1, 11, 16, generator=g)
    out, dx, down, up = step(x, weights, grouped, monkeypatch, spoiled=True)
    assert out[0, 3].isnan().all() and not out[0, [0, 1, 2, *range(4, 11)]].isnan().any()
    assert (
        not dx[0, [0, 1, 2, *range(4, 11)]].isnan().any()
        and not down[[2, 4]].isnan().any()
        and not up[[2, 4]].isnan().any()
    )


@pytest.mark.parametrize(
    "dtype, rank, wanted", [(torch.bfloat16, 16, True), (torch.bfloat16, 4, False), (torch.float32, 16, False)]
)
def test_where_products_are_grouped(
    dtype: torch.dtype, rank: int, wanted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = torch.empty(3, 32, dtype=dtype, device="meta")
    monkeypatch.setattr(torch.Tensor, "is_cuda", property(lambda self: True))
    assert lora._grouped(x, torch.empty(5, rank, 32, device="meta"), torch.empty(5, 64, rank, device="meta")) == wanted
