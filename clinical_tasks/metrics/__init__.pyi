from .bootstrap import (
    LEVEL as LEVEL,
    RESAMPLES as RESAMPLES,
    Array as Array,
    Statistic as Statistic,
    f1_of as f1_of,
    interval as interval,
    macro_f1_of as macro_f1_of,
    mean_of as mean_of,
    precision_of as precision_of,
    recall_of as recall_of,
    replicate as replicate,
)
from .counts import Counts as Counts, precision_recall_f1 as precision_recall_f1, set_counts as set_counts
from .matching import DUPLICATES as DUPLICATES, lenient as lenient
from .rouge import ROUGE_TYPES as ROUGE_TYPES, rouge_scores as rouge_scores
from .rules import rule as rule
from .spans import (
    overlap as overlap,
    pubtator_mention_counts as pubtator_mention_counts,
    pubtator_relation_counts as pubtator_relation_counts,
    text_order as text_order,
)
from .text import exact_match as exact_match, token_f1 as token_f1

__all__ = [
    "DUPLICATES",
    "LEVEL",
    "RESAMPLES",
    "ROUGE_TYPES",
    "Array",
    "Counts",
    "Statistic",
    "exact_match",
    "f1_of",
    "interval",
    "lenient",
    "macro_f1_of",
    "mean_of",
    "overlap",
    "precision_of",
    "precision_recall_f1",
    "pubtator_mention_counts",
    "pubtator_relation_counts",
    "recall_of",
    "replicate",
    "rouge_scores",
    "rule",
    "set_counts",
    "text_order",
    "token_f1",
]
