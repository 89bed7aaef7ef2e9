"""ROUGE-1, 2, L and Lsum by the `rouge-score` package, each distinct word stemmed once."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from nltk.stem.porter import PorterStemmer
from rouge_score.rouge_scorer import RougeScorer
from rouge_score.tokenize import tokenize
from rouge_score.tokenizers import Tokenizer

ROUGE_TYPES = ("rouge1", "rouge2", "rougeL", "rougeLsum")
_PORTER = PorterStemmer()


class _CachedStemmer:
    @staticmethod
    @lru_cache(maxsize=1 << 16)
    def stem(word: str) -> str:
        return str(_PORTER.stem(word))


class _Words(Tokenizer):  # type: ignore[misc]
    def __init__(self, stemmer: bool) -> None:
        self._stemmer = _CachedStemmer() if stemmer else None

    def tokenize(self, text: str) -> list[str]:
        return list(tokenize(text, self._stemmer))


def rouge_scores(references: Sequence[str], predictions: Sequence[str], *, stemmer: bool) -> list[tuple[float, ...]]:
    """For each pair the F-measures in the order of `ROUGE_TYPES`. Lines are the sentences of rougeLsum."""
    scorer = RougeScorer(list(ROUGE_TYPES), tokenizer=_Words(stemmer))
    found = []
    for reference, prediction in zip(references, predictions, strict=True):
        scores = scorer.score(reference, prediction)
        found.append(tuple(float(scores[name].fmeasure) for name in ROUGE_TYPES))
    return found
