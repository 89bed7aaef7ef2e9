"""A global step's samples, cut into micro-batches: equally many on every rank, none over the token budget."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from backbones import Batch
from engine.data import Sample


@dataclass(frozen=True)
class Item:
    """A sample in a global step: its bank row, and the weight of each of its answer tokens in the step's loss."""

    row: int
    sample: Sample
    weight: float


def weigh(rows: Sequence[int], samples: Sequence[Sample]) -> list[Item]:
    """Items whose weights make a task's loss the mean over its answer tokens of the *global* step, and the step's the sum over tasks."""
    tokens: dict[int, int] = {}
    for row, sample in zip(rows, samples, strict=True):
        tokens[row] = tokens.get(row, 0) + len(sample.answer_ids)
    return [Item(row, sample, 1 / tokens[row]) for row, sample in zip(rows, samples, strict=True)]


def micro_batches(items: Sequence[Item], prompt_length: int, token_budget: int, rank: int, world: int) -> list[list[Item]]:
    """This rank's micro-batches. Ranks get equally many; missing ones are one short sample of weight zero.

    A sample longer than the budget makes a micro-batch of its own.
    """
    order = sorted(items, key=lambda i: -len(i.sample))  # stable: the plan's order decides among equals
    groups: list[list[Item]] = []
    for item in order:
        width = prompt_length + len(groups[-1][0].sample) if groups else 0
        if groups and width * (len(groups[-1]) + 1) <= token_budget:
            groups[-1].append(item)
        else:
            groups.append([item])
    shortest = order[-1]
    while len(groups) % world:
        groups.append([Item(shortest.row, shortest.sample, 0.0)])
    return groups[rank::world]


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
