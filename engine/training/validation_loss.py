"""Cross-entropy of a bank's rows on validation splits: what chooses a row's best step, and between rates of equal
score.
"""

from collections.abc import Mapping

import torch

from engine.data import Sample, Split, weight_answer_tokens
from engine.distributed import sum_over_ranks
from engine.training.forward_backward import ForwardBackward
from prompt_modules import PromptBank


def validation_losses(
    forward_backward: ForwardBackward, bank: PromptBank, splits: Mapping[int, Split]
) -> dict[int, float]:
    """Mean cross-entropy of an answer token, by bank row. A collective.

    Args:
        splits: bank row -> what it is validated on; the same on all ranks.
    """
    samples: list[Sample] = []
    for row, split in splits.items():
        samples += [split.sample(index, row) for index in split.sample_indices]
    if not samples:
        return {}
    samples = weight_answer_tokens(samples)
    totals = torch.zeros(max(splits) + 1, dtype=torch.float64)
    for group in forward_backward.micro_batches(samples, bank):
        terms = forward_backward.cross_entropies(group, bank)
        real = terms.weights_N > 0
        totals.index_add_(0, terms.row_N[real].cpu(), (terms.ce_N.double() * terms.weights_N)[real].cpu())
    sum_over_ranks(totals)
    return {row: totals[row].item() for row in splits}
