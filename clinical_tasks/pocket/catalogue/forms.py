"""The two forms of a card: one over annotated documents, one over rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from clinical_tasks.pocket.annotated import CORPORA

Content = dict[str, Any]

GIVEN = " The gold mentions are used when an answer is read back, and not shown."
OPTIONS = {"layout": "{letter} {text}"}
ASKED = "{note}\nquestion : {question}\n"
EXAM = "{question}\n{options}\nanswer :"
PAIR = "{note}\nhypothesis : {hypothesis}\nanswer :"
ROUGE: Content = {"extra_metrics": ["rouge1", "rouge2", "rougeLsum", "exact_match"], "rouge_stemmer": True}

_SPLITS = ("train", "validation", "test")
# Reader -> the files of a split.
_FILES = {
    "brat": ("{split}/*.txt", "{split}/*.ann"),
    "pubtator": ("{split}.PubTator.txt",),
    "i2b2": ("{split}/txt/*.txt", "{split}/concept/*.con", "{split}/rel/*.rel"),
    "i2b2_2009": ("{split}/notes/*", "{split}/entries/*.entries"),
    "i2b2_2012": ("{split}/*.xml",),
    "bioc": ("{split}.BioC.xml",),
    "chemprot": ("{split}/chemprot_*.tsv",),
    "ddi": ("{split}/*.xml",),
}
_EXTRA_METRICS = {
    "ner": ("span_f1_lenient", "span_f1_strict", "text_set_f1"),
    "re": ("relation_precision", "relation_recall"),
}


def annotated(
    *,
    folder: str,
    kind: str,
    instruction: str,
    labels: Mapping[str, str],
    metric: str,
    reader: str = "",
    **more: Any,
) -> Content:
    """A card of type `ner` or `re`. `reader` is by default the one of the corpus's own format."""
    reader = reader or CORPORA[folder].format
    splits = {}
    for split in _SPLITS:
        splits[split] = {"files": [name.format(split=split) for name in _FILES[reader]]}
    return {
        "type": kind,
        "reader": reader,
        "folder": folder,
        "splits": splits,
        "labels": dict(labels),
        "instruction": instruction,
        "input": "{text}\nanswer :",
        "metric": metric,
        "extra_metrics": [name for name in _EXTRA_METRICS[kind] if name != metric],
        **more,
    }


def rows(
    *,
    kind: str,
    reader: str,
    files: tuple[str, ...],
    columns: Content,
    instruction: str,
    template: str,
    metric: str,
    **more: Any,
) -> Content:
    """A card over rows. `files`: of the training, validation and test split; empty where a split is held out."""
    splits = {split: {"files": [name]} for split, name in zip(_SPLITS, files, strict=True)}
    return {
        "type": kind,
        "reader": reader,
        "splits": splits,
        "columns": columns,
        "instruction": instruction,
        "input": template,
        "metric": metric,
        **more,
    }
