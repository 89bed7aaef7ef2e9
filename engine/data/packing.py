"""A global step's samples, cut into micro-batches: equally many on every rank, none over the token budget."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from backbones import Batch, PackedBatch, share_prefix
from backbones.attention import to_device
from engine.data.dataset import Sample


@dataclass(frozen=True)
class Item:
    """A sample in a global step: its bank row, the weight of each of its answer tokens in the step's loss, its
    place in its split.
    """

    row: int
    sample: Sample
    weight: float
    index: int = -1


def weigh(rows: Sequence[int], samples: Sequence[Sample], indices: Sequence[int] | None = None) -> list[Item]:
    """Items whose weights make a task's loss the mean over its answer tokens of the *global* step, and the step's
    the sum over tasks.
    """
    places = [-1] * len(rows) if indices is None else indices
    tokens: dict[int, int] = {}
    for row, sample in zip(rows, samples, strict=True):
        tokens[row] = tokens.get(row, 0) + len(sample.answer_ids)
    return [Item(row, sample, 1 / tokens[row], place) for row, sample, place in zip(rows, samples, places, strict=True)]


def micro_batches(
    items: Sequence[Item], prompt_length: int, max_tokens_per_micro_batch: int, rank: int, world: int
) -> list[list[Item]]:
    """This rank's micro-batches. Ranks get equally many; missing ones are one short sample of weight zero.

    A sample longer than the budget makes a micro-batch of its own.
    """
    return padded_groups(items, prompt_length, max_tokens_per_micro_batch, world)[rank::world]


def padded_groups(
    items: Sequence[Item], prompt_length: int, max_tokens_per_micro_batch: int, world: int
) -> list[list[Item]]:
    """Micro-batches of all ranks, as they take turns."""
    order = sorted(items, key=lambda i: -len(i.sample))  # stable: the plan's order decides among equals
    groups: list[list[Item]] = []
    for item in order:
        width = prompt_length + len(groups[-1][0].sample) if groups else 0
        if groups and width * (len(groups[-1]) + 1) <= max_tokens_per_micro_batch:
            groups[-1].append(item)
        else:
            groups.append([item])
    shortest = order[-1]
    while len(groups) % world:
        groups.append([replace(shortest, weight=0.0)])
    return groups


def collate(items: Sequence[Item], device: torch.device | str = "cpu") -> Batch:
    """Tensors of a micro-batch, padded on the right."""
    widest = max(len(i.sample) for i in items)
    ids = torch.zeros(len(items), widest, dtype=torch.long)
    answer = torch.zeros(len(items), widest, dtype=torch.bool)
    for b, item in enumerate(items):
        context, target = item.sample.context_ids, item.sample.answer_ids
        ids[b, : len(item.sample)] = torch.tensor(context + target)
        answer[b, len(context) : len(item.sample)] = True
    return Batch(
        ids_BT=ids.to(device),
        answer_BT=answer.to(device),
        labels_N=ids[answer].to(device),
        sample_N=answer.nonzero()[:, 0].to(device),
        rows_B=torch.tensor([i.row for i in items], device=device),
        weights_B=torch.tensor([i.weight for i in items], dtype=torch.float64, device=device),
    )


def packed_micro_batches(
    items: Sequence[Item], prompt_length: int, max_tokens_per_micro_batch: int, rank: int, world: int
) -> list[list[Item]]:
    """This rank's packed rows, each prompt once in a row. Ranks get equally many, and of like size; missing ones weigh
    zero.

    Samples of a bank row stay together, so that few prompts are repeated. A sample longer than the budget makes a row
    of its own.
    """
    return packed_groups(items, prompt_length, max_tokens_per_micro_batch, world)[rank::world]


def packed_groups(
    items: Sequence[Item], prompt_length: int, max_tokens_per_micro_batch: int, world: int
) -> list[list[Item]]:
    """Packed rows of all ranks, as they take turns."""
    order = sorted(items, key=lambda i: (i.row, len(i.sample)))  # stable: the plan's order decides among equals
    least = -(-_row_tokens(order, prompt_length) // max_tokens_per_micro_batch)
    n = max(1, -(-least // world)) * world
    groups: list[list[Item]] = [[]]
    size = 0
    left = _row_tokens(order, prompt_length)
    for item in order:
        more = len(item.sample) + (prompt_length if not groups[-1] or groups[-1][-1].row != item.row else 0)
        share = (size + left) / max(1, n - len(groups) + 1)  # what this row should hold of what is not yet in one
        if groups[-1] and (size + more > max_tokens_per_micro_batch or size + more / 2 > share):
            groups.append([])
            size, more = 0, len(item.sample) + prompt_length
        groups[-1].append(item)
        size += more
        left -= len(item.sample)
    shortest = min(items, key=lambda i: len(i.sample))
    while len(groups) % world:
        groups.append([replace(shortest, weight=0.0)])
    return groups


def _row_tokens(items: Sequence[Item], prompt_length: int) -> int:
    return sum(len(i.sample) for i in items) + prompt_length * len({i.row for i in items})


def pack(items: Sequence[Item], prompt_length: int, device: torch.device | str = "cpu") -> PackedBatch:
    """Tensors of a packed row."""
    rows = list(dict.fromkeys(i.row for i in items))
    slots = [rows.index(i.row) for i in items]
    ids: list[int] = []
    before: list[int] = []
    labels: list[int] = []
    owners: list[int] = []
    prompts = len(rows) * prompt_length
    for b, item in enumerate(items):
        context, answer = item.sample.context_ids, item.sample.answer_ids
        first = prompts + len(ids) + len(context)
        # an empty context's first answer token is predicted by the last token of its prompt
        before.append(first - 1 if context else (slots[b] + 1) * prompt_length - 1)
        before += range(first, first + len(answer) - 1)
        ids += context + answer
        labels += answer
        owners += [b] * len(answer)
    owner_N = torch.tensor(owners)
    return PackedBatch(
        ids_T=torch.tensor(ids),
        before_N=to_device(torch.tensor(before), device),
        labels_N=to_device(torch.tensor(labels), device),
        row_N=to_device(torch.tensor([i.row for i in items])[owner_N], device),
        weights_N=to_device(torch.tensor([i.weight for i in items], dtype=torch.float64)[owner_N], device),
        rows_K=to_device(torch.tensor(rows), device),
        prefix=share_prefix([len(i.sample) for i in items], slots, len(rows), prompt_length, device),
    )
