"""Factors for a task the bank has never seen, from the factors of the source tasks (METHOD, stage 2)."""

import torch
from torch import Tensor

from prompt_modules.initialisation import FACTOR_STD

VANISHING = 1e-10  # a singular value below this share of the largest is rounding, not signal


def average_factors(cols_KLR: Tensor, rows_KRD: Tensor, how: str, start_cols_LR: Tensor) -> tuple[Tensor, Tensor]:
    """One (U, V) that stands for all K rows.

    Args:
        how: ``mean_factors`` (mean of U, mean of V, as MPT), ``mean_product`` (best rank-R factorisation of the mean of
            U_k V_k) or ``ones`` (the untouched metaprompt).
        start_cols_LR: U at its identity start; fills components that carry nothing.

    Returns:
        (cols_LR, rows_RD) in the dtype of the input. Factors at their identity start come back with a product of
        exactly one; so does, under ``mean_product``, any bank whose products are all ones.
    """
    if how == "mean_factors":
        return cols_KLR.mean(0), rows_KRD.mean(0)
    if how == "ones":
        rows_RD = torch.zeros_like(rows_KRD[0])
        rows_RD[0] = 1
        return start_cols_LR.to(cols_KLR).clone(), rows_RD
    if how == "mean_product":
        return _mean_product(cols_KLR, rows_KRD, start_cols_LR)
    raise ValueError(f"unknown way to average factors: {how}")


def _mean_product(cols_KLR: Tensor, rows_KRD: Tensor, start_cols_LR: Tensor) -> tuple[Tensor, Tensor]:
    # fp64: with all-ones factors the SVD's own rounding must vanish in fp32
    mean_LD = torch.einsum("klr,krd->ld", cols_KLR.double(), rows_KRD.double()) / len(cols_KLR)
    left, values, right = torch.linalg.svd(mean_LD, full_matrices=False)
    length, rank = cols_KLR.shape[1:]
    cols_LR = start_cols_LR.double().clone()
    rows_RD = torch.zeros_like(rows_KRD[0], dtype=torch.float64)
    for r in range(min(rank, len(values))):
        if values[r] <= VANISHING * values[0]:
            break
        # a singular pair fixes u v^T only up to a scale: give U the rms it starts with, so learning rates keep their
        # meaning
        rms = 1.0 if r == 0 else FACTOR_STD
        scale = rms * length**0.5
        if left[:, r].sum() < 0:
            scale = -scale
        cols_LR[:, r] = left[:, r] * scale
        rows_RD[r] = right[r] * values[r] / scale
    return cols_LR.to(cols_KLR.dtype), rows_RD.to(rows_KRD.dtype)
