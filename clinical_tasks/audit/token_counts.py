"""How long a task's inputs and answers are in tokens, and what a run of some longest sample would do to them."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from clinical_tasks.schema import Example, TaskCard
from clinical_tasks.text_pairs import split_long

PERCENTILES = (50, 90, 99)
_FATES = ("divided", "pieces", "dropped", "relations cut", "answers cut")


@dataclass(frozen=True)
class TokenLimits:
    """What counts tokens, and what a run allows. `input_tokens` counts all but the answer, `answer_tokens` its end
    token too.

    `max_length`: longest sample; longer notes are divided, other examples dropped. `max_new_tokens`: longest generated
        answer.
    """

    input_tokens: Callable[[str], int]
    answer_tokens: Callable[[str], int]
    max_length: int
    max_new_tokens: int


class TokenCounts:
    """Takes examples one at a time; holds two numbers of each."""

    def __init__(self, card: TaskCard, limits: TokenLimits):
        self._card, self._limits = card, limits
        self._lengths = {"input": array("I"), "answer": array("I")}
        self.fates: dict[str, Counter[str]] = {}

    def add(self, split: str, example: Example) -> None:
        """Measure a whole example, then what the longest sample makes of it."""
        limits = self._limits
        fates = self.fates.setdefault(split, Counter(dict.fromkeys(_FATES, 0)))
        length, answer = limits.input_tokens(example.input_text), limits.answer_tokens(example.answer_text)
        self._lengths["input"].append(length)
        self._lengths["answer"].append(answer)
        if self._card.type in ("ner", "re") and length + answer > limits.max_length:
            pieces = split_long(example, self._card, self._fits)
            fates["divided"] += len(pieces) > 1
            fates["pieces"] += len(pieces)
            fates["dropped"] += sum(not self._fits(piece.input_text, piece.answer_text) for piece in pieces)
            fates["relations cut"] += sum(piece.gold.get("cut_relations", 0) for piece in pieces)
            answers = [limits.answer_tokens(piece.answer_text) for piece in pieces]
        else:
            longest = max([answer, *map(limits.answer_tokens, example.options)])
            fates["pieces"] += 1
            fates["dropped"] += length + longest > limits.max_length
            answers = [] if example.options else [answer]
        # A reference longer than this cannot be generated whole.
        fates["answers cut"] += sum(count > limits.max_new_tokens for count in answers)

    def _fits(self, input_text: str, answer_text: str) -> bool:
        tokens = self._limits.input_tokens(input_text) + self._limits.answer_tokens(answer_text)
        return tokens <= self._limits.max_length

    def percentiles(self) -> dict[str, dict[str, int]]:
        """`{"input": {"p50": ..., "max": ...}, "answer": ...}`, nearest rank."""
        out: dict[str, dict[str, int]] = {}
        for name, lengths in self._lengths.items():
            ranked = sorted(lengths)
            if ranked:
                out[name] = {f"p{p}": ranked[max(0, -(-len(ranked) * p // 100) - 1)] for p in PERCENTILES}
                out[name]["max"] = ranked[-1]
        return out
