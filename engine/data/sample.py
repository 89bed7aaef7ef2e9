"""One sample, from the token cache to the micro-batch."""

from collections.abc import Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Sample:
    """Token ids, and the sample's part in a global step.

    Args:
        context_ids: what stands behind the prompt.
        answer_ids: what is learned or scored, with the end token.
        row: the bank row that it trains.
        index: its place in that row's split; -1 outside one.
        weight: of each of its answer tokens in the step's loss. A sample of weight zero only fills a micro-batch.
    """

    context_ids: list[int]
    answer_ids: list[int]
    row: int = 0
    index: int = -1
    weight: float = 1.0

    def __len__(self) -> int:
        return len(self.context_ids) + len(self.answer_ids)


def weight_answer_tokens(samples: Sequence[Sample]) -> list[Sample]:
    """The samples of a global step, weighted: a row's loss is the mean over its answer tokens of the step, and the
    step's loss is the sum over rows.
    """
    tokens: dict[int, int] = {}
    for sample in samples:
        tokens[sample.row] = tokens.get(sample.row, 0) + len(sample.answer_ids)
    return [replace(sample, weight=1 / tokens[sample.row]) for sample in samples]
