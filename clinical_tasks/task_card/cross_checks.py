"""What no key of a card can tell alone: metric and reader against type, labels, columns and fields of the input."""

from __future__ import annotations

import re
from collections.abc import Collection

from clinical_tasks.metrics import ROUGE_TYPES
from clinical_tasks.readers import READER_OPTIONS, ROW_READERS
from clinical_tasks.schema import TASK_TYPES, TaskCard, did_you_mean
from clinical_tasks.task_card.checker import Checker

_SCORES = ("f1", "precision", "recall")
_LENIENT = ("lenient", "n2c2_2018", "brat_scoring")
METRICS = {
    "ner": (*(f"span_{name}_{rule}" for rule in ("strict", *_LENIENT) for name in _SCORES), "text_set_f1"),
    "re": (
        *(f"relation_{name}" for name in _SCORES),
        *(f"relation_{name}_{rule}" for rule in (*_LENIENT, "sdoh_2022") for name in _SCORES),
    ),
    "qa": ("accuracy", "macro_f1", "exact_match", "token_f1"),
    "nli": ("accuracy", "macro_f1"),
    "summarization": (*ROUGE_TYPES, "exact_match"),
}


def check_together(check: Checker, card: TaskCard) -> None:
    """What no key can tell alone."""
    if card.type not in TASK_TYPES or card.reader not in READER_OPTIONS:
        return
    _check_metric(check, card, "metric", card.metric)
    for metric in card.extra_metrics:
        _check_metric(check, card, "extra_metrics", metric)
    if card.splits and "test" not in card.splits:
        check.problem("splits.test", "missing", "a task needs a test split; hold one out if none is released")
    words = [word.casefold() for word in card.labels.values()]
    # A choice may fold several official labels into one word; a mention or relation must come back as the label that it
    # was.
    if not all(words) or (card.type in ("ner", "re") and len(set(words)) < len(words)):
        check.problem(
            "labels", "two labels are written with the same word, or one with none", "give each label its own word"
        )
    elif len(words) > 1 and card.type in ("qa", "nli") and len(set(words)) < 2:
        check.problem("labels", "all labels are written with the same word", "there is nothing to choose between")
    if card.type in ("ner", "re"):
        _check_annotated(check, card)
    else:
        _check_rows(check, card)


def _check_metric(check: Checker, card: TaskCard, key: str, metric: str) -> None:
    known = known_metrics(card)
    if metric and metric not in known:
        reason = f"unknown for type {card.type}: '{metric}'{did_you_mean(metric, known)}"
        check.problem(key, reason, f"use one of {', '.join(known)}")


def known_metrics(card: TaskCard) -> tuple[str, ...]:
    if card.type == "ner" and card.triggers:
        return (*METRICS["ner"], *(f"span_{name}_sdoh_2022" for name in _SCORES))
    if card.type == "re" and card.relations.level == "entity":
        return METRICS["re"][:3]
    if card.type != "qa":
        return METRICS[card.type]
    if card.options or card.labels:
        return METRICS["qa"][:2]
    return METRICS["qa"][2:]


def _check_annotated(check: Checker, card: TaskCard) -> None:
    if card.reader in ROW_READERS:
        annotated = ", ".join(name for name in READER_OPTIONS if name not in ROW_READERS)
        check.problem("reader", f"'{card.reader}' reads no annotations", f"a {card.type} task uses one of {annotated}")
    if card.answer == "likelihood":
        check.problem(
            "answer", f"a {card.type} task has no options to compare", "use answer: generation, or drop the key"
        )
    for label in card.triggers:
        if card.labels and label not in card.labels:
            check.problem(
                "triggers", f"'{label}' is none of the card's labels{did_you_mean(label, card.labels)}", "name labels"
            )
    if card.triggers and card.type == "re":
        check.problem("triggers", "unused in a re task", "its triggers are the heads; drop the key")
    known = ("text", "entities") if card.type == "re" else ("text",)
    _check_template(check, card, known)
    if card.input and card.input.count("{text}") != 1:
        check.problem("input", "needs {text} exactly once", "offsets are found through it")
    for key in ("columns", "options"):
        if getattr(card, key):
            check.problem(key, f"unused by reader {card.reader}", "drop it")


def _check_rows(check: Checker, card: TaskCard) -> None:
    if card.reader not in ROW_READERS:
        check.problem(
            "reader", f"'{card.reader}' reads no rows", f"a {card.type} task uses one of {', '.join(ROW_READERS)}"
        )
    if "answer" not in card.columns:
        check.problem("columns.answer", "missing", "name the column that holds the answer or label")
    if "options" in card.columns:
        check.problem("columns.options", "the name is taken", "describe options under 'options:'")
    if card.type == "nli" and not card.labels:
        check.problem("labels", "missing", "map each official label to the word that the answer uses")
    if card.triggers:
        check.problem("triggers", f"unused in a {card.type} task", "drop the key")
    if card.options and card.labels:
        check.problem("labels", "unused beside options", "drop one of them")
    if card.answer == "likelihood" and (
        card.type == "summarization" or (card.type == "qa" and not card.options and not card.labels)
    ):
        check.problem("answer", "there are no options to compare", "use answer: generation, or give labels or options")
    fields = [name for name in card.columns if name not in ("id", "document", "answer")]
    if card.options:
        fields.append("options")
    _check_template(check, card, fields)
    if card.options and "{options}" not in card.input:
        check.problem("input", "does not show the options", "add {options}")


def _check_template(check: Checker, card: TaskCard, known: Collection[str]) -> None:
    used = re.findall(r"\{(\w+)\}", card.input)
    for name in used:
        if name not in known:
            check.problem(
                "input", f"unknown field {{{name}}}{did_you_mean(name, known)}", f"fields are {', '.join(known)}"
            )
    if card.input and not used:
        check.problem("input", "shows no field of the data", f"fields are {', '.join(known)}")
