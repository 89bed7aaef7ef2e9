"""ROUGE-1, 2, L and Lsum by the `rouge-score` package, each distinct word stemmed once.

The package and nltk are imported by the first score: they bring scipy and scikit-learn, and a card that names ROUGE is
checked without them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

ROUGE_TYPES = ("rouge1", "rouge2", "rougeL", "rougeLsum")


@lru_cache(maxsize=1)
def _porter() -> Any:
    from nltk.stem.porter import PorterStemmer

    return PorterStemmer()


class _CachedStemmer:
    @staticmethod
    @lru_cache(maxsize=1 << 16)
    def stem(word: str) -> str:
        return str(_porter().stem(word))


class _Words:
    """A tokenizer of `rouge-score`, which asks for its `tokenize` alone."""

    def __init__(self, stemmer: bool) -> None:
        self._stemmer = _CachedStemmer() if stemmer else None

    def tokenize(self, text: str) -> list[str]:
        from rouge_score.tokenize import tokenize

        return list(tokenize(text, self._stemmer))


def rouge_scores(references: Sequence[str], predictions: Sequence[str], *, stemmer: bool) -> list[tuple[float, ...]]:
    """For each pair the F-measures in the order of `ROUGE_TYPES`. Lines are the sentences of rougeLsum."""
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(list(ROUGE_TYPES), tokenizer=_Words(stemmer))
    found = []
    for reference, prediction in zip(references, predictions, strict=True):
        scores = scorer.score(reference, prediction)
        found.append(tuple(float(scores[name].fmeasure) for name in ROUGE_TYPES))
    return found
