"""Where prompts and factors start."""

import pytest
import torch
from torch import Tensor

from prompt_modules import (
    DecomposedBank,
    embeddings_from_instruction,
    embeddings_from_text,
    embeddings_from_vocabulary,
    identity_factors,
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("rank", [1, 4])
def test_every_prompt_is_exactly_the_metaprompt_at_step_0(rank: int) -> None:
    shared_LD = torch.randn(100, 64, generator=generator(1))
    bank = DecomposedBank(
        shared_LD[None], *identity_factors(5, length=100, rank=rank, hidden=64, generator=generator())
    )
    assert torch.equal(bank.prompts(torch.arange(5)).detach(), shared_LD.expand(5, -1, -1))


def test_further_columns_are_one_draw_shared_by_all_rows() -> None:
    cols_KLR, rows_KRD = identity_factors(6, length=200, rank=4, hidden=32, generator=generator())
    assert cols_KLR.shape == (6, 200, 4) and rows_KRD.shape == (6, 4, 32)
    assert all(torch.equal(cols_KLR[0], cols_LR) for cols_LR in cols_KLR)
    assert torch.equal(cols_KLR[..., 0], torch.ones(6, 200)) and torch.equal(rows_KRD[:, 0], torch.ones(6, 32))
    assert not rows_KRD[:, 1:].any()
    drawn = cols_KLR[0, :, 1:]
    assert 0.018 < drawn.std().item() < 0.022 and abs(drawn.mean().item()) < 0.004
    assert all(len(column.unique()) == 200 for column in drawn.T)
    # rows are copies: training one must not move another
    cols_KLR[0].zero_()
    assert cols_KLR[1].any()


def test_the_draw_depends_on_the_generator_alone_and_not_on_the_number_of_rows() -> None:
    few, many, other = (
        identity_factors(1, length=9, rank=3, hidden=4, generator=generator()),
        identity_factors(7, length=9, rank=3, hidden=4, generator=generator()),
        identity_factors(1, length=9, rank=3, hidden=4, generator=generator(1)),
    )
    assert torch.equal(few[0][0], many[0][6])
    assert not torch.equal(few[0], other[0])


def table(dtype: torch.dtype = torch.float32) -> Tensor:
    """An embedding table whose row i is (i, i)."""
    return torch.arange(50.0).to(dtype)[:, None].expand(50, 2)


def test_a_vocabulary_start_draws_candidates_without_replacement_where_there_are_enough() -> None:
    weights = table()
    start_LD = embeddings_from_vocabulary(
        lambda ids: weights[ids], candidates=range(10, 40), length=30, generator=generator()
    )
    assert sorted(start_LD[:, 0].tolist()) == list(range(10, 40)) and start_LD[:, 0].tolist() != list(range(10, 40))
    again = embeddings_from_vocabulary(
        lambda ids: weights[ids], candidates=range(10, 40), length=30, generator=generator()
    )
    other = embeddings_from_vocabulary(
        lambda ids: weights[ids], candidates=range(10, 40), length=30, generator=generator(1)
    )
    assert torch.equal(start_LD, again) and not torch.equal(start_LD, other)
    few = embeddings_from_vocabulary(lambda ids: weights[ids], candidates=[3, 7], length=30, generator=generator())
    assert few.shape == (30, 2) and set(few[:, 0].tolist()) == {3.0, 7.0}


def test_a_text_start_repeats_or_cuts_the_text() -> None:
    weights = table()
    assert embeddings_from_text(lambda ids: weights[ids], [4, 5, 6], 7)[:, 0].tolist() == [4, 5, 6, 4, 5, 6, 4]
    assert embeddings_from_text(lambda ids: weights[ids], [4, 5, 6], 2)[:, 1].tolist() == [4, 5]


def test_an_instruction_start_holds_the_whole_instruction_last_next_to_the_text() -> None:
    weights = table()

    def ids(length: int) -> list[float]:
        return embeddings_from_instruction(lambda ids: weights[ids], [4, 5, 6], length)[:, 0].tolist()

    assert ids(3) == [4, 5, 6]
    assert ids(7) == [6, 4, 5, 6, 4, 5, 6] and ids(4) == [6, 4, 5, 6]
    assert ids(2) == [4, 5], "one that is too long is cut at its end"
    with pytest.raises(ValueError, match="instruction to start a prompt from is empty"):
        embeddings_from_instruction(lambda ids: weights[ids], [], 2)


@pytest.mark.parametrize(
    ("dtype", "kept"), [(torch.bfloat16, torch.float32), (torch.float32, torch.float32), (torch.float64, torch.float64)]
)
def test_starts_are_master_values(dtype: torch.dtype, kept: torch.dtype) -> None:
    weights = table(dtype)
    weights = weights.clone().requires_grad_()
    for start_LD in (
        embeddings_from_vocabulary(lambda ids: weights[ids], candidates=[1, 2], length=2, generator=generator()),
        embeddings_from_text(lambda ids: weights[ids], [1], 2),
    ):
        assert start_LD.dtype == kept and not start_LD.requires_grad


def test_nothing_to_start_from_is_an_error() -> None:
    weights = table()
    with pytest.raises(ValueError, match="no vocabulary entry"):
        embeddings_from_vocabulary(lambda ids: weights[ids], candidates=[], length=2, generator=generator())
    with pytest.raises(ValueError, match="empty"):
        embeddings_from_text(lambda ids: weights[ids], [], 2)
