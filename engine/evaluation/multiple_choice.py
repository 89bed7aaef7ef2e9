"""Log-likelihoods of the options of many choices behind one soft prompt: each context once, whatever the number of its
options.

A context enters as in generation; its last state predicts every option's first token, and the options then branch off
it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from backbones.attention import Slots
from engine.distributed import ShardedBackbone, sum_over_ranks
from prompt_modules import HeadLoss, tied_head_loss


@dataclass(frozen=True)
class Choice:
    """Token ids of a context and of each option, its end token included."""

    context: list[int]
    options: list[list[int]]

    @property
    def tokens(self) -> int:
        return len(self.context) + len(self.options) * max(map(len, self.options))


def option_likelihoods(
    backbone: ShardedBackbone,
    prompt_LD: Tensor,
    choices: Sequence[Choice],
    max_tokens_per_micro_batch: int,
    rank: int,
    world: int,
) -> list[list[float]]:
    """Summed log-probability of every option of every choice. A collective: every rank calls alike and gets all.

    Args:
        prompt_LD: fp32; L may be 0.
    """
    groups = _groups(choices, len(prompt_LD), max_tokens_per_micro_batch, world)
    starts = [0]
    for choice in choices:
        starts.append(starts[-1] + len(choice.options))
    logp = torch.zeros(starts[-1], dtype=torch.float64)
    for group in groups[rank::world]:
        real = group or [0]  # the first one again, for the other ranks' sake; it is not counted
        found = _ask(backbone, prompt_LD, [choices[i] for i in real])
        if group:
            owners: list[int] = []
            for i in group:
                owners += range(starts[i], starts[i + 1])
            logp[torch.tensor(owners)] = found
    sum_over_ranks(logp)
    return [logp[begin:end].tolist() for begin, end in pairwise(starts)]


def _groups(choices: Sequence[Choice], length: int, max_tokens_per_micro_batch: int, world: int) -> list[list[int]]:
    """Numbers of the choices, by length; as many groups as make every rank's number alike, the last ones empty."""
    groups: list[list[int]] = []
    size = max_tokens_per_micro_batch
    for i in sorted(range(len(choices)), key=lambda i: choices[i].tokens):
        if size + choices[i].tokens > max_tokens_per_micro_batch:
            groups.append([])
            size = length
        groups[-1].append(i)
        size += choices[i].tokens
    return groups + [[]] * (-len(groups) % world)


def _ask(backbone: ShardedBackbone, prompt_LD: Tensor, choices: list[Choice]) -> Tensor:
    """fp64, on the CPU: of each option, choice by choice."""
    model, device = backbone.model, backbone.device
    contexts = [c.context for c in choices]
    slots = Slots(
        model.config,
        len(choices),
        len(prompt_LD),
        max(1, *map(len, contexts)),
        device,
        model.get_output_embeddings().weight.dtype,
    )
    options = [option for choice in choices for option in choice.options]
    n_options = torch.tensor([len(choice.options) for choice in choices])
    of_N = torch.arange(len(choices)).repeat_interleave(n_options).to(device)
    first = torch.tensor([option[0] for option in options], device=device)

    def fill(tokens_TD: Tensor) -> Tensor:
        return torch.cat([prompt_LD.to(tokens_TD.dtype), tokens_TD])

    logp = -backbone.prefill(contexts, fill, slots, loss=_loss(first), of_N=of_N).ce_N.double().cpu()
    backbone.release()
    branches, tokens = int(n_options.max()), max(map(len, options)) - 1
    # every rank branches, if only for the others' sake
    ids = torch.zeros(len(choices), branches, max(tokens, 1), dtype=torch.long)
    at: list[int] = []
    labels: list[int] = []
    owner: list[int] = []
    number = 0
    for b, choice in enumerate(choices):
        for o, option in enumerate(choice.options):
            ids[b, o, : len(option) - 1] = torch.tensor(option[:-1])
            begin = (b * branches + o) * ids.shape[2]
            at += range(begin, begin + len(option) - 1)
            labels += option[1:]
            owner += [number] * (len(option) - 1)
            number += 1
    place = torch.tensor(at or [0], device=device)
    found = (
        backbone.decode_branches(ids, slots, loss=_loss(torch.tensor(labels or [0], device=device)), at_N=place)
        .ce_N.double()
        .cpu()
    )
    backbone.release()
    return logp.index_add_(0, torch.tensor(owner, dtype=torch.long), -found[: len(owner)])


def _loss(labels_N: Tensor):  # type: ignore[no-untyped-def]
    weights_N = torch.ones_like(labels_N, dtype=torch.float64)

    def loss(weight_VD: Tensor, states_ND: Tensor, _: None) -> HeadLoss:
        return tied_head_loss(
            weight_VD, student_ND=states_ND, teacher=None, labels_N=labels_N, weights_N=weights_N, gradient=False
        )

    return loss
