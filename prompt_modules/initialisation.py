"""Where prompts and factors start."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

FACTOR_STD = 0.02  # of every U column after the first


def identity_factors(
    n_rows: int, length: int, rank: int, hidden: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Factors whose product is exactly one, so that P_k == P* before the first step, for any rank.

    The first component of U and V is one. Every further U column is one draw from N(0, 0.02^2) shared by all rows
    (averaging rows later must not average unrelated draws away), and every further V row is zero. PEFT draws both
    factors from N(0, 0.02^2): the product starts near 4e-4 and erases what P* was initialised to.

    Returns:
        (cols_KLR, rows_KRD), fp32.
    """
    cols_LR = torch.cat([torch.ones(length, 1), torch.randn(length, rank - 1, generator=generator) * FACTOR_STD], 1)
    rows_RD = torch.cat([torch.ones(1, hidden), torch.zeros(rank - 1, hidden)])
    return cols_LR.repeat(n_rows, 1, 1), rows_RD.repeat(n_rows, 1, 1)


def embeddings_from_vocabulary(
    lookup: Callable[[Tensor], Tensor], candidates: Sequence[int], length: int, generator: torch.Generator
) -> Tensor:
    """A prompt of embeddings of sampled vocabulary entries [M].

    Args:
        lookup: int64 (n,) -> (n, D), the backbone's input embedding rows.
        candidates: token ids to draw from, without replacement where there are enough (special tokens left out by the
            caller).

    Returns:
        fp32 (L, D) (fp64 stays).
    """
    if not candidates:
        raise ValueError("no vocabulary entry to start a prompt from")
    ids = torch.tensor(list(candidates))
    if len(ids) >= length:
        order = torch.randperm(len(ids), generator=generator)
    else:
        order = torch.randint(len(ids), (length,), generator=generator)
    return _as_master(lookup(ids[order[:length]]))


def embeddings_from_text(lookup: Callable[[Tensor], Tensor], token_ids: Sequence[int], length: int) -> Tensor:
    """A prompt of the embeddings of a given text, repeated or cut to L tokens: fp32 (L, D) (fp64 stays)."""
    if not token_ids:
        raise ValueError("the text to start a prompt from is empty")
    repeats = -(-length // len(token_ids))
    return _as_master(lookup(torch.tensor((list(token_ids) * repeats)[:length])))


def embeddings_from_instruction(lookup: Callable[[Tensor], Tensor], token_ids: Sequence[int], length: int) -> Tensor:
    """A prompt of the embeddings of a written instruction: fp32 (L, D) (fp64 stays).

    The whole instruction stands last, next to the text, where an instruction in the input would end. A longer prompt
    begins with the end of further copies of it; a shorter one holds the instruction's first L tokens.
    """
    if not token_ids:
        raise ValueError("the instruction to start a prompt from is empty")
    ids = list(token_ids)[:length]
    repeats = -(-length // len(ids))
    return _as_master(lookup(torch.tensor((ids * repeats)[-length:])))


def _as_master(values: Tensor) -> Tensor:
    return values.detach().cpu().to(torch.promote_types(values.dtype, torch.float32))
