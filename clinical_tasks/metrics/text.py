"""Metrics on text: means of ROUGE, and SQuAD's exact match and token F1."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

from clinical_tasks.metrics.rouge import ROUGE_TYPES, rouge_scores


def rouge(references: Sequence[str], predictions: Sequence[str], *, stemmer: bool) -> dict[str, float]:
    """Mean F-measure of each ROUGE over the pairs, under the names of `rouge-score`.

    rougeL takes a text as one sequence; rougeLsum takes each of its lines as a sentence and joins their longest common
    subsequences. They agree on texts of one line. `rouge_stemmer` in the result records whether words were stemmed
    (Porter).
    """
    pairs = rouge_scores(references, predictions, stemmer=stemmer)
    means = {}
    for index, name in enumerate(ROUGE_TYPES):
        means[name] = sum(pair[index] for pair in pairs) / max(1, len(pairs))
    return means | {"rouge_stemmer": float(stemmer)}


def normalise_answer(text: str) -> str:
    """SQuAD's normalisation: lower case, no punctuation, no articles, single spaces."""
    text = "".join(character for character in text.lower() if character not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def exact_match(references: Sequence[str], prediction: str) -> float:
    """1 if the prediction equals one of the references after normalisation."""
    return float(normalise_answer(prediction) in [normalise_answer(reference) for reference in references])


def token_f1(references: Sequence[str], prediction: str) -> float:
    """The best bag-of-words F1 against the references."""
    words = normalise_answer(prediction).split()
    return max((_overlap_f1(normalise_answer(reference).split(), words) for reference in references), default=0.0)


def _overlap_f1(reference: list[str], prediction: list[str]) -> float:
    if not reference or not prediction:
        return float(reference == prediction)
    common = sum((Counter(reference) & Counter(prediction)).values())
    return 2 * common / (len(reference) + len(prediction))
