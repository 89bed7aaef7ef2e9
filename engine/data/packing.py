"""A global step's samples, cut into micro-batches: equally many on every rank, none over the token budget."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from backbones import Batch, PackedBatch, share_prefix
from backbones.attention import to_device
from engine.data.sample import Sample


def micro_batches(
    samples: Sequence[Sample], prompt_length: int, max_tokens_per_micro_batch: int, rank: int, world: int
) -> list[list[Sample]]:
    """This rank's micro-batches. Ranks get equally many; missing ones are one short sample of weight zero.

    A sample longer than the budget makes a micro-batch of its own.
    """
    return padded_groups(samples, prompt_length, max_tokens_per_micro_batch, world)[rank::world]


def padded_groups(
    samples: Sequence[Sample], prompt_length: int, max_tokens_per_micro_batch: int, world: int
) -> list[list[Sample]]:
    """Micro-batches of all ranks, as they take turns."""
    order = sorted(samples, key=lambda s: -len(s))  # stable: the plan's order decides among equals
    groups: list[list[Sample]] = []
    for sample in order:
        width = prompt_length + len(groups[-1][0]) if groups else 0
        if groups and width * (len(groups[-1]) + 1) <= max_tokens_per_micro_batch:
            groups[-1].append(sample)
        else:
            groups.append([sample])
    shortest = order[-1]
    while len(groups) % world:
        groups.append([replace(shortest, weight=0.0)])
    return groups


def collate(samples: Sequence[Sample], device: torch.device | str = "cpu") -> Batch:
    """Tensors of a micro-batch, padded on the right."""
    widest = max(len(s) for s in samples)
    ids = torch.zeros(len(samples), widest, dtype=torch.long)
    answer = torch.zeros(len(samples), widest, dtype=torch.bool)
    for b, sample in enumerate(samples):
        context, target = sample.context_ids, sample.answer_ids
        ids[b, : len(sample)] = torch.tensor(context + target)
        answer[b, len(context) : len(sample)] = True
    return Batch(
        ids_BT=ids.to(device),
        answer_BT=answer.to(device),
        labels_N=ids[answer].to(device),
        sample_N=answer.nonzero()[:, 0].to(device),
        rows_B=torch.tensor([s.row for s in samples], device=device),
        weights_B=torch.tensor([s.weight for s in samples], dtype=torch.float64, device=device),
    )


def packed_micro_batches(
    samples: Sequence[Sample], prompt_length: int, max_tokens_per_micro_batch: int, rank: int, world: int
) -> list[list[Sample]]:
    """This rank's packed rows, each prompt once in a row. Ranks get equally many, and of like size; missing ones weigh
    zero.

    Samples of a bank row stay together, so that few prompts are repeated. A sample longer than the budget makes a row
    of its own.
    """
    return packed_groups(samples, prompt_length, max_tokens_per_micro_batch, world)[rank::world]


def packed_groups(
    samples: Sequence[Sample], prompt_length: int, max_tokens_per_micro_batch: int, world: int
) -> list[list[Sample]]:
    """Packed rows of all ranks, as they take turns."""
    order = sorted(samples, key=lambda s: (s.row, len(s)))  # stable: the plan's order decides among equals
    least = -(-_row_tokens(order, prompt_length) // max_tokens_per_micro_batch)
    n = max(1, -(-least // world)) * world
    groups: list[list[Sample]] = [[]]
    size = 0
    left = _row_tokens(order, prompt_length)
    for sample in order:
        more = len(sample) + (prompt_length if not groups[-1] or groups[-1][-1].row != sample.row else 0)
        share = (size + left) / max(1, n - len(groups) + 1)  # what this row should hold of what is not yet in one
        if groups[-1] and (size + more > max_tokens_per_micro_batch or size + more / 2 > share):
            groups.append([])
            size, more = 0, len(sample) + prompt_length
        groups[-1].append(sample)
        size += more
        left -= len(sample)
    shortest = min(samples, key=len)
    while len(groups) % world:
        groups.append([replace(shortest, weight=0.0)])
    return groups


def _row_tokens(samples: Sequence[Sample], prompt_length: int) -> int:
    return sum(len(s) for s in samples) + prompt_length * len({s.row for s in samples})


def pack(samples: Sequence[Sample], prompt_length: int, device: torch.device | str = "cpu") -> PackedBatch:
    """Tensors of a packed row."""
    rows = list(dict.fromkeys(s.row for s in samples))
    slots = [rows.index(s.row) for s in samples]
    ids: list[int] = []
    before: list[int] = []
    labels: list[int] = []
    owners: list[int] = []
    prompts = len(rows) * prompt_length
    for b, sample in enumerate(samples):
        context, answer = sample.context_ids, sample.answer_ids
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
        row_N=to_device(torch.tensor([s.row for s in samples])[owner_N], device),
        weights_N=to_device(torch.tensor([s.weight for s in samples], dtype=torch.float64)[owner_N], device),
        rows_K=to_device(torch.tensor(rows), device),
        prefix=share_prefix([len(s) for s in samples], slots, n_prompts=len(rows), length=prompt_length, device=device),
    )
