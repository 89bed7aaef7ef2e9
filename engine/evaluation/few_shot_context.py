"""Contexts of an untrained backbone: the task's written instruction, solved examples where there are any, the input.

Examples that would make a context too long are left out from the end, the fewest possible, and counted.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from backbones import Layout


@dataclass
class Shown:
    """Solved examples (input text, answer text) before each input.

    Args:
        limit: tokens that a context may have, the room for its answer taken off; what does not fit without any example
            is asked without.
    """

    layout: Layout
    instruction: str
    examples: Sequence[tuple[str, str]]
    limit: int
    used: list[int] = field(default_factory=list)
    """Of every context made: how many examples it holds."""

    def __post_init__(self) -> None:
        texts = [self.layout.solved_text(example) for example in self.examples]
        sizes = [len(self.layout.tokenizer.encode(text)) for text in texts]
        self._before = [0, *accumulate(sizes)]  # about: what is tokenised apart may differ at its borders

    def context(self, input_text: str, answer_tokens: int) -> list[int]:
        """Token ids; ``answer_tokens`` is the room that the answer needs."""

        def make(n: int) -> list[int]:
            return self.layout.instructed_ids(self.instruction, input_text, self.examples[:n])

        limit = self.limit - answer_tokens
        ids = make(0)
        n = sum(before + len(ids) <= limit for before in self._before[1:])
        if n:
            ids = make(n)
        while n and len(ids) > limit:
            n -= 1
            ids = make(n)
        while n < len(self.examples) and len(more := make(n + 1)) <= limit:
            n, ids = n + 1, more
        self.used.append(n)
        return ids

    def told(self) -> dict[str, int]:
        """What results say of it: examples left out, over all contexts; the most and the fewest that a context
        holds.
        """
        left_out = sum(len(self.examples) - n for n in self.used)
        return {
            "n_examples_left_out": left_out,
            "n_examples_most": max(self.used, default=0),
            "n_examples_fewest": min(self.used, default=0),
        }


def common_start(contexts: Sequence[list[int]]) -> int:
    """How many tokens all contexts begin with alike; every one keeps a token of its own."""
    shortest, longest = min(contexts), max(contexts)  # in the order of their tokens: what these two share, all share
    most = min(map(len, contexts)) - 1
    for n, (a, b) in enumerate(zip(shortest, longest, strict=False)):
        if a != b or n >= most:
            return n
    return max(0, most)
