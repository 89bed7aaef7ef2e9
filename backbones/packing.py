"""A packed row [P_1 … P_K | sample | sample | …]: each prompt once, no padding, every token at the position it would have alone."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# samples share a padded attention call as long as padding stays below this share of it
PADDING = 0.15


@dataclass(frozen=True)
class Bucket:
    """B sequences of like length, R tokens at most.

    index_BR int64: each token's place in the packed row, a sequence's first token where it has no more. real_BR bool, or None where
    nothing is padding. slot_B int64: which prompt stands before each sequence, or None where none does.
    """

    index_BR: Tensor
    real_BR: Tensor | None
    slot_B: Tensor | None


@dataclass(frozen=True)
class SharedPrefix:
    """Where the sequences of a packed row of S = K L + T tokens lie: all that its attention needs.

    n_prompts: K. length: L of each. buckets: the prompts, if there are any, and the samples by length. home_S int64: where each token of
    the row lies in the buckets, laid end to end. positions_S int64: of each token, prompts from 0, samples from L.
    """

    n_prompts: int
    length: int
    buckets: tuple[Bucket, ...]
    home_S: Tensor
    positions_S: Tensor


def share_prefix(lengths: Sequence[int], slots: Sequence[int], n_prompts: int, length: int, device: torch.device | str = "cpu") -> SharedPrefix:
    """Plan the attention of a packed row.

    Args:
        lengths, slots: of each sample, in the row's order, its tokens (at least one) and the prompt it follows.
        n_prompts, length: K and L.
    """
    prompts = n_prompts * length
    starts = [prompts]
    for n in lengths:
        starts.append(starts[-1] + n)
    parts = [(range(0, prompts, length), [length] * n_prompts, None)] if prompts else []
    for group in _alike(lengths):
        parts.append(([starts[b] for b in group], [lengths[b] for b in group], [slots[b] for b in group] if length else None))  # type: ignore[arg-type]
    home = torch.empty(starts[-1], dtype=torch.long)
    buckets, begin = [], 0
    for first, sizes, slot in parts:
        own, start_B1 = torch.arange(max(sizes)), torch.tensor(list(first))[:, None]
        real_BR = own < torch.tensor(sizes)[:, None]
        index_BR = torch.where(real_BR, start_B1 + own, start_B1)
        home[index_BR[real_BR]] = begin + torch.arange(real_BR.numel()).view_as(real_BR)[real_BR]
        begin += real_BR.numel()
        buckets.append(Bucket(index_BR.to(device), None if real_BR.all() else real_BR.to(device), None if slot is None else torch.tensor(slot, device=device)))
    positions = torch.cat([torch.arange(length)] * n_prompts + [torch.arange(length, length + n) for n in lengths])
    return SharedPrefix(n_prompts, length, tuple(buckets), home.to(device), positions.to(device))


def _alike(lengths: Sequence[int]) -> list[list[int]]:
    """Numbers of the samples, grouped so that little of a group is padding."""
    groups: list[list[int]] = []
    real = 0
    for b in sorted(range(len(lengths)), key=lambda b: lengths[b]):
        real += lengths[b]
        if groups and (len(groups[-1]) + 1) * lengths[b] * (1 - PADDING) <= real:
            groups[-1].append(b)
        else:
            groups.append([b])
            real = lengths[b]
    return groups


@dataclass(frozen=True)
class PackedBatch:
    """A micro-batch as one row of K prompts and T text tokens, N of them answer tokens.

    ids_T int64, on the CPU: the samples' tokens, end to end. before_N int64: the place in the row that predicts each answer token; the prompt's last
    token where the context is empty. labels_N int64. row_N int64: the bank row of each answer token. weights_N: fp64, of each in the
    step's loss. rows_K int64: bank rows of the prompts, in the row's order.
    """

    ids_T: Tensor
    before_N: Tensor
    labels_N: Tensor
    row_N: Tensor
    weights_N: Tensor
    rows_K: Tensor
    prefix: SharedPrefix
