"""Factors for an unseen task, from those of the sources."""

import pytest
import torch
from torch import Tensor

from prompt_modules import average_factors, identity_factors

K, L, D = 5, 12, 20


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def start(rank: int) -> Tensor:
    return identity_factors(1, length=L, rank=rank, hidden=D, generator=generator())[0][0]


def trained(rank: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Factors as after a distillation: near their start, each row moved its own way."""
    cols_KLR, rows_KRD = identity_factors(K, length=L, rank=rank, hidden=D, generator=generator())
    cols_KLR = cols_KLR + 0.1 * torch.randn(cols_KLR.shape, generator=generator(1))
    rows_KRD = rows_KRD + 0.3 * torch.randn(rows_KRD.shape, generator=generator(2))
    return cols_KLR.to(dtype), rows_KRD.to(dtype)


def mean_update(cols_KLR: Tensor, rows_KRD: Tensor) -> Tensor:
    return sum(u @ v for u, v in zip(cols_KLR, rows_KRD, strict=True)) / len(cols_KLR)


@pytest.mark.parametrize("rank", [1, 4])
@pytest.mark.parametrize("n_rows", [1, 3, 21])
@pytest.mark.parametrize("how", ["mean_factors", "mean_product", "ones"])
def test_all_ones_average_to_exactly_ones(how: str, n_rows: int, rank: int) -> None:
    cols_LR, rows_RD = average_factors(
        *identity_factors(n_rows, length=100, rank=rank, hidden=64, generator=generator()),
        how,
        identity_factors(1, length=100, rank=rank, hidden=64, generator=generator())[0][0],
    )
    assert cols_LR.shape == (100, rank) and rows_RD.shape == (rank, 64)
    assert torch.equal(cols_LR @ rows_RD, torch.ones(100, 64))
    if how != "mean_factors":  # a sum of draws over three rows, divided by three, is rounded
        assert torch.equal(cols_LR, identity_factors(1, length=100, rank=rank, hidden=64, generator=generator())[0][0])


@pytest.mark.parametrize("rank", [1, 2, 4])
def test_mean_product_is_the_best_approximation_of_its_rank(rank: int) -> None:
    cols_KLR, rows_KRD = trained(rank)
    mean_LD = mean_update(cols_KLR, rows_KRD)
    left, values, right = torch.linalg.svd(mean_LD, full_matrices=False)
    truncated = left[:, :rank] @ torch.diag(values[:rank]) @ right[:rank]
    cols_LR, rows_RD = average_factors(cols_KLR, rows_KRD, how="mean_product", start_cols_LR=start(rank))
    torch.testing.assert_close(cols_LR @ rows_RD, truncated, rtol=0, atol=1e-12)
    # Eckart and Young: the error is what the left-out singular values hold
    assert (mean_LD - cols_LR @ rows_RD).norm().item() == pytest.approx(values[rank:].norm().item(), rel=1e-9)


@pytest.mark.parametrize("rank", [1, 4])
def test_mean_product_beats_mean_factors(rank: int) -> None:
    cols_KLR, rows_KRD = trained(rank)
    mean_LD = mean_update(cols_KLR, rows_KRD)

    def error(how: str) -> float:
        cols_LR, rows_RD = average_factors(cols_KLR, rows_KRD, how, start_cols_LR=start(rank))
        return (mean_LD - cols_LR @ rows_RD).norm().item()

    assert error("mean_product") < (0.8 if rank > 1 else 1.0) * error("mean_factors")


def test_components_have_the_rms_of_their_start() -> None:
    cols_LR, _ = average_factors(*trained(4), "mean_product", start(4))
    rms_R = cols_LR.square().mean(0).sqrt()
    torch.testing.assert_close(rms_R, torch.tensor([1, 0.02, 0.02, 0.02], dtype=torch.float64), rtol=1e-12, atol=0)
    assert cols_LR[:, 0].sum() > 0  # not the mirrored pair: U starts near ones, as everywhere else


def test_components_that_carry_nothing_keep_their_start() -> None:
    cols_KLR, rows_KRD = trained(4)
    rows_KRD[:, 2:] = 0  # every row, so their mean too, has rank 2 only if the rows share their columns
    cols_KLR[:] = cols_KLR[0]
    cols_LR, rows_RD = average_factors(cols_KLR, rows_KRD, how="mean_product", start_cols_LR=start(4))
    torch.testing.assert_close(cols_LR @ rows_RD, mean_update(cols_KLR, rows_KRD), rtol=0, atol=1e-12)
    assert torch.equal(cols_LR[:, 2:].float(), start(4)[:, 2:]) and not rows_RD[2:].any()
    assert rows_RD[:2].any(1).all()


def test_mean_factors_is_the_mean_of_each() -> None:
    cols_KLR, rows_KRD = trained(3)
    cols_LR, rows_RD = average_factors(cols_KLR, rows_KRD, how="mean_factors", start_cols_LR=start(3))
    torch.testing.assert_close(cols_LR, sum(cols_KLR) / K, rtol=1e-14, atol=0)
    torch.testing.assert_close(rows_RD, sum(rows_KRD) / K, rtol=1e-13, atol=1e-15)


def test_ones_is_the_untouched_metaprompt_with_its_start_and_not_a_view_of_it() -> None:
    own = start(4)
    cols_LR, rows_RD = average_factors(*trained(4), "ones", own)
    assert torch.equal(cols_LR, own.double()) and torch.equal(cols_LR @ rows_RD, torch.ones(L, D, dtype=torch.float64))
    fp32, _ = average_factors(*trained(4, torch.float32), "ones", own)
    fp32.zero_()
    assert own.any()


@pytest.mark.parametrize("how", ["mean_factors", "mean_product", "ones"])
def test_the_result_has_the_inputs_dtype(how: str) -> None:
    for dtype in (torch.float32, torch.float64):
        assert {t.dtype for t in average_factors(*trained(2, dtype), how, start(2))} == {dtype}


def test_one_row_averages_to_itself() -> None:
    cols_KLR, rows_KRD = trained(4)
    cols_LR, rows_RD = average_factors(cols_KLR[:1], rows_KRD=rows_KRD[:1], how="mean_product", start_cols_LR=start(4))
    torch.testing.assert_close(cols_LR @ rows_RD, cols_KLR[0] @ rows_KRD[0], rtol=0, atol=1e-12)


def test_a_rank_above_the_hidden_size_leaves_the_rest_at_its_start() -> None:
    cols_KLR, rows_KRD = identity_factors(2, length=6, rank=5, hidden=3, generator=generator())
    rows_KRD = rows_KRD + torch.randn(rows_KRD.shape, generator=generator(1))
    begin = identity_factors(1, length=6, rank=5, hidden=3, generator=generator())[0][0]
    cols_LR, rows_RD = average_factors(cols_KLR, rows_KRD, how="mean_product", start_cols_LR=begin)
    torch.testing.assert_close(cols_LR @ rows_RD, mean_update(cols_KLR, rows_KRD), rtol=0, atol=1e-5)
    assert torch.equal(cols_LR[:, 3:], begin[:, 3:]) and not rows_RD[3:].any()


def test_an_unknown_way_is_named() -> None:
    with pytest.raises(ValueError, match="median"):
        average_factors(*trained(1), "median", start(1))
