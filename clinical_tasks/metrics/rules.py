"""The rule that a metric follows, in words: a score without it cannot be compared."""

from __future__ import annotations

from clinical_tasks.metrics.matching import DUPLICATES
from clinical_tasks.schema import TaskCard

_EXACT_SPANS = "sets of (document, type, start, end), as the BC5CDR evaluator 0.0.3"
_EXACT_PAIRS = "sets of (document, type, both ends' spans and types)"
_CONCEPTS = "document level: sets of (document, type, head concept, tail concept), as the BC5CDR evaluator 0.0.3"
_TOUCH = "one character of overlap, same type"
_RULES = {
    "n2c2_2018": "a further prediction over a gold one already touched is dropped (n2c2-2018 script)",
    "brat_scoring": "each gold one is matched once, further predictions are false (brat_scoring)",
    "exact_first": "each gold one is matched once, exact matches first, further predictions are false",
}
_FIXED = {
    "text_set_f1": "micro over labels: sets of (document, type, lower-cased text)",
    "accuracy": "share of right answers",
    "macro_f1": "mean F1 over the labels that occur in gold or prediction; an unreadable answer is a miss of its "
    "gold label",
    "exact_match": "SQuAD: equal to a reference after normalisation",
    "token_f1": "SQuAD: best bag-of-words F1 over the references",
    "rouge1": "mean F-measure of words",
    "rouge2": "mean F-measure of pairs of words",
    "rougeL": "mean F-measure of the longest common subsequence of the whole text",
    "rougeLsum": "mean F-measure of the longest common subsequences of the lines, joined",
}
_SDOH = {
    "ner": "triggers by overlap and type, each matched once (brat_scoring); all other types by exact span (n2c2-2022)",
    "re": "heads are triggers, paired by overlap and type (brat_scoring); an argument by its role and exact span "
    "under its trigger (n2c2-2022)",
}


def rule(card: TaskCard, metric: str) -> str:
    """One line, without note text."""
    if metric.startswith("rouge"):
        return f"{_FIXED[metric]}; rouge-score, {'Porter stemmer' if card.rouge_stemmer else 'no stemmer'}"
    if metric in _FIXED:
        return _FIXED[metric]
    labels = ", ".join(card.labels) or "all labels"
    order = "; ends in either order" if card.relations.symmetric else ""
    return f"micro over {labels}: {_matching(card, metric)}{order}"


def _matching(card: TaskCard, metric: str) -> str:
    """When a predicted annotation counts as a gold one."""
    if metric.endswith("_sdoh_2022"):
        return _SDOH[card.type]
    if metric.endswith("_lenient"):
        return f"{_TOUCH}; {_RULES[DUPLICATES[card.duplicates]]}"
    for name in ("n2c2_2018", "brat_scoring"):
        if metric.endswith(f"_{name}"):
            return f"{_TOUCH}; {_RULES[name]}"
    if card.type == "ner":
        return _EXACT_SPANS
    return _CONCEPTS if card.relations.level == "entity" else _EXACT_PAIRS
