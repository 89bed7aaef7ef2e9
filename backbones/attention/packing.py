"""A packed row [P_1 … P_K | sample | sample | …]: each prompt once, no padding, every token at the position it
would have alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise

import torch
from torch import Tensor

# samples share a padded attention call as long as padding stays below this share of it
PADDING = 0.15


@dataclass(frozen=True)
class Bucket:
    """B sequences of like length, R tokens at most.

    index_BR int64: each token's place in the packed row, a sequence's first token where it has no more. real_BR bool,
        or None where
    nothing is padding. slot_B int64: which prompt stands before each sequence, or None where none does.
    """

    index_BR: Tensor
    real_BR: Tensor | None
    slot_B: Tensor | None


@dataclass(frozen=True)
class Segments:
    """A packed row as stretches of tokens that attend to one another, for kernels that take sequences of any length.

    All int32, cumulative from 0. own: the prompts, if there are any, and the samples, (K + B + 1). text: the samples of
        each prompt, end to end, from the
    first sample on, (K + 1). prompts: each prompt, (K + 1). longest_own, longest_text: tokens of the longest stretch.
    """

    own: Tensor
    text: Tensor
    prompts: Tensor
    longest_own: int
    longest_text: int


@dataclass(frozen=True)
class GatheredKeys:
    """A packed row's queries as they lie, and its keys as [prompts | end of the prompt, sample | ...], for one call of
    a flash attention.

    index_G int64: the place in the row of each gathered key; None where they lie as the row does. home_S int64: where a
        token's own key is among them.
    queries, keys: int32, where sequences begin, cumulative from 0, (K + B + 1). reach: tokens of its prompt that each
        sample sees.
    first_B int64: the place of the first of them, samples of a prompt together. begins: int32, where each prompt's
        samples begin there, (K + 1).
    """

    index_G: Tensor | None
    home_S: Tensor
    queries: Tensor
    keys: Tensor
    longest_queries: int
    longest_keys: int
    reach: int
    first_B: Tensor
    begins: Tensor


@dataclass(frozen=True)
class SharedPrefix:
    """Where the sequences of a packed row of S = K L + T tokens lie: all that its attention needs, made as it is asked
    for.

    n_prompts: K. length: L of each. lengths, slots: of each sample, in the row's order, its tokens (at least one) and
        the prompt it follows.
    """

    n_prompts: int
    length: int
    lengths: tuple[int, ...]
    slots: tuple[int, ...]
    device: torch.device

    @property
    def longest(self) -> int:
        """Tokens that the last token of the longest sequence could see: its prompt and its sample."""
        return self.length + max(self.lengths, default=0)

    @cached_property
    def positions_S(self) -> Tensor:
        """int64, of each token: prompts from 0, samples from L."""
        samples = [torch.arange(self.length, self.length + n) for n in self.lengths]
        return to_device(torch.cat([torch.arange(self.length)] * self.n_prompts + samples), self.device)

    @property
    def buckets(self) -> tuple[Bucket, ...]:
        """The prompts, if there are any, and the samples by length."""
        return self._bucketed[0]

    @property
    def home_S(self) -> Tensor:
        """int64: where each token of the row lies in the buckets, laid end to end."""
        return self._bucketed[1]

    @cached_property
    def _bucketed(self) -> tuple[tuple[Bucket, ...], Tensor]:
        lengths, length, prompts = self.lengths, self.length, self.n_prompts * self.length
        starts = list(accumulate(lengths, initial=prompts))
        parts: list[tuple[list[int], list[int], list[int] | None]] = []
        if prompts:
            parts.append((list(range(0, prompts, length)), [length] * self.n_prompts, None))
        for group in _alike(lengths):
            slot = [self.slots[b] for b in group] if length else None
            parts.append(([starts[b] for b in group], [lengths[b] for b in group], slot))
        home = torch.empty(starts[-1], dtype=torch.long)
        buckets, begin = [], 0
        for first, sizes, slot in parts:
            own, start_B1 = torch.arange(max(sizes)), torch.tensor(first)[:, None]
            real_BR = own < torch.tensor(sizes)[:, None]
            index_BR = torch.where(real_BR, start_B1 + own, start_B1)
            home[index_BR[real_BR]] = begin + torch.arange(real_BR.numel()).view_as(real_BR)[real_BR]
            begin += real_BR.numel()
            padded, slot_B = None, None
            if not real_BR.all():
                padded = to_device(real_BR, self.device)
            if slot is not None:
                slot_B = to_device(torch.tensor(slot), self.device)
            buckets.append(Bucket(to_device(index_BR, self.device), padded, slot_B))
        return tuple(buckets), to_device(home, self.device)

    @cached_property
    def segments(self) -> Segments | None:
        """None where a prompt's samples do not lie together, in the order of the prompts, or a prompt has none."""
        text = [0] * self.n_prompts
        if self.length:
            together = all(before <= after for before, after in pairwise(self.slots))
            if not together or set(self.slots) != set(range(self.n_prompts)):
                return None
            for slot, n in zip(self.slots, self.lengths, strict=True):
                text[slot] += n
        prompts = [self.length] * self.n_prompts
        own = self._prompt_lengths() + list(self.lengths)
        own_at, text_at, prompts_at = (self._cumulative(sizes) for sizes in (own, text, prompts))
        return Segments(own_at, text_at, prompts_at, longest_own=max(own, default=0), longest_text=max(text, default=0))

    def gathered(self, window: int | None) -> GatheredKeys:
        """Its keys for a query that sees ``window`` tokens, itself among them; None: all before it."""
        reach = self.length
        if window is not None:
            reach = min(self.length, window - 1)
        if reach not in self._gathered:
            self._gathered[reach] = self._gather(reach)
        return self._gathered[reach]

    @cached_property
    def _gathered(self) -> dict[int, GatheredKeys]:
        return {}

    def _gather(self, reach: int) -> GatheredKeys:
        prompts = self.n_prompts * self.length
        before = self._prompt_lengths()
        queries, keys = before + list(self.lengths), before + [reach + n for n in self.lengths]
        starts, places = list(accumulate(self.lengths, initial=prompts)), [torch.arange(prompts)]
        first = list(accumulate((reach + n for n in self.lengths), initial=prompts))
        home = [torch.arange(prompts)]
        for b, (slot, n) in enumerate(zip(self.slots, self.lengths, strict=True)):
            end = (slot + 1) * self.length
            places += [torch.arange(end - reach, end), torch.arange(starts[b], starts[b] + n)]
            home.append(torch.arange(first[b] + reach, first[b] + reach + n))
        by_prompt = sorted(range(len(self.slots)), key=lambda b: self.slots[b])
        index_G = None
        if reach:
            index_G = to_device(torch.cat(places), self.device)
        return GatheredKeys(
            index_G,
            to_device(torch.cat(home), self.device),
            self._cumulative(queries),
            self._cumulative(keys),
            max(queries, default=0),
            max(keys, default=0),
            reach,
            to_device(torch.tensor([first[b] for b in by_prompt], dtype=torch.long), self.device),
            self._cumulative([self.slots.count(slot) for slot in range(self.n_prompts)]),
        )

    def _prompt_lengths(self) -> list[int]:
        """Lengths of the prompts as stretches of the row; none where they are empty."""
        if not self.length:
            return []
        return [self.length] * self.n_prompts

    def _cumulative(self, sizes: list[int]) -> Tensor:
        return to_device(torch.tensor([0, *accumulate(sizes)], dtype=torch.int32), self.device)


def share_prefix(
    lengths: Sequence[int], slots: Sequence[int], n_prompts: int, length: int, device: torch.device | str = "cpu"
) -> SharedPrefix:
    """Plan the attention of a packed row.

    Args:
        lengths, slots: of each sample, in the row's order, its tokens (at least one) and the prompt it follows.
        n_prompts, length: K and L.
    """
    return SharedPrefix(n_prompts, length, tuple(lengths), tuple(slots), torch.device(device))


def to_device(tensor: Tensor, device: torch.device | str) -> Tensor:
    """A CPU tensor there. A GPU takes it from pinned memory, so that the host does not wait for what the GPU has
    still to do.
    """
    if torch.device(device).type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


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

    ids_T int64, on the CPU: the samples' tokens, end to end. before_N int64: the place in the row that predicts each
        answer token; the prompt's last
    token where the context is empty. labels_N int64. row_N int64: the bank row of each answer token. weights_N: fp64,
    of each in the step's loss. rows_K int64: bank rows of the prompts, in the row's order.
    """

    ids_T: Tensor
    before_N: Tensor
    labels_N: Tensor
    row_N: Tensor
    weights_N: Tensor
    rows_K: Tensor
    prefix: SharedPrefix
