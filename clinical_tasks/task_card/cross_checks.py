"""What no key of a card can tell alone: metric and reader against type, labels, columns and fields of the input."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

from clinical_tasks.metrics import ROUGE_TYPES
from clinical_tasks.readers import READER_OPTIONS, ROW_READERS
from clinical_tasks.schema import TaskCard
from strict_yaml import did_you_mean, must_be_one_of, shown, shown_key

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
_TEMPLATE_FIELD = re.compile(r"\{(\w+)\}")


class Fault(NamedTuple):
    """What is wrong between keys: the key that tells it, and the reason with its fix.

    ``needs``: further keys that it rests on, each as a whole, or with ``.*`` also all that is in it.
    """

    key: str
    text: str
    needs: tuple[str, ...] = ()

    def rests_on(self, wrong: Collection[str]) -> bool:
        """Whether it cannot be known, because a key that it rests on is among the wrong ones."""
        whole = {self.key, *(need.removesuffix(".*") for need in self.needs)}
        deep = {self.key, *(need.removesuffix(".*") for need in self.needs if need.endswith(".*"))}
        around = any(f"{key}.".startswith(f"{other}.") for key in whole for other in wrong)
        return around or any(f"{other}.".startswith(f"{key}.") for key in deep for other in wrong)


def faults(card: TaskCard) -> Iterator[Fault]:
    """What no key can tell alone. Where keys are wrong, the card holds stand-ins: leave out what rests on them."""
    yield from _split_faults(card)
    yield from _metric_faults(card)
    yield from _label_faults(card)
    if card.options and set(_TEMPLATE_FIELD.findall(card.options.layout)) != {"letter", "text"}:
        yield Fault("options.layout", "needs {letter} and {text}; write for example '{letter}. {text}'")
    of_type = _annotated_faults if card.type in ("ner", "re") else _row_faults
    for fault in of_type(card):
        yield fault._replace(needs=(*fault.needs, "type"))


def _split_faults(card: TaskCard) -> Iterator[Fault]:
    for name, spec in card.splits.items():
        key = f"splits.{name}"
        if bool(spec.hold_out) == any(spec.files):
            either = "needs either files or hold_out; write 'files: [NAME]' or 'hold_out: {from: train, fraction: 0.1}'"
            yield Fault(key, either)
        named = {"files": spec.files, "ids_from": (spec.ids_from,), "ids_not_in": (spec.ids_not_in,)}
        for below, paths in named.items():
            for path in map(Path, paths):
                if path.is_absolute() or ".." in path.parts:
                    text = f"{shown(str(path))} is outside the task's folder; name files inside DATA_ROOT/<folder>"
                    yield Fault(f"{key}.{below}", text)
        parent = spec.hold_out_from
        if parent and (parent not in card.splits or card.splits[parent].hold_out):
            text = f"must be a split with files; got '{parent}'"
            yield Fault(f"{key}.hold_out.from", text, (f"splits.{parent}",))
        if sum(other.fraction for other in card.splits.values() if other.hold_out_from == name) >= 1:
            text = f"nothing is left of '{name}'; let the fractions held out of it sum to less than 1"
            yield Fault("splits", text)
    if "test" not in card.splits:
        yield Fault("splits.test", "missing; a task needs a test split; hold one out if none is released")


def _metric_faults(card: TaskCard) -> Iterator[Fault]:
    known = known_metrics(card)
    needs = ("type", "labels", "options", "triggers", "relations.level")
    named = [("metric", card.metric), *(("extra_metrics", metric) for metric in card.extra_metrics)]
    for key, metric in named:
        if metric not in known:
            yield Fault(key, must_be_one_of(metric, known, f"the metrics of type {card.type}: "), needs)


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


def _label_faults(card: TaskCard) -> Iterator[Fault]:
    words = [word.casefold() for word in card.labels.values()]
    # A choice may fold several official labels into one word; a mention or relation must come back as the label that it
    # was.
    if not all(words) or (card.type in ("ner", "re") and len(set(words)) < len(words)):
        text = "two labels have the same word, or one has an empty word; give each label its own word"
        yield Fault("labels", text, ("type",))
    elif len(words) > 1 and card.type in ("qa", "nli") and len(set(words)) < 2:
        text = "all labels have the same word, so there is nothing to choose between"
        yield Fault("labels", text, ("type",))


def _annotated_faults(card: TaskCard) -> Iterator[Fault]:
    if card.reader in ROW_READERS:
        annotated = ", ".join(name for name in READER_OPTIONS if name not in ROW_READERS)
        yield Fault(
            "reader", f"must be one of {annotated} in a {card.type} task, which needs annotations; got '{card.reader}'"
        )
    if card.answer == "likelihood":
        yield Fault("answer", f"a {card.type} task has no options to compare; use answer: generation, or drop the key")
    for label in card.triggers:
        if card.labels and label not in card.labels:
            yield Fault("triggers", must_be_one_of(label, card.labels, "the card's labels: "), ("labels.*",))
    if card.triggers and card.type == "re":
        yield Fault("triggers", "unused in a re task; its triggers are the heads; drop the key")
    yield from _template_faults(card, ("text", "entities") if card.type == "re" else ("text",))
    if card.input.count("{text}") != 1:
        yield Fault("input", "needs {text} exactly once; offsets are found through it")
    for key in ("columns", "options"):
        if getattr(card, key):
            yield Fault(key, f"unused by reader {card.reader}; drop it", ("reader",))


def _row_faults(card: TaskCard) -> Iterator[Fault]:
    if card.reader not in ROW_READERS:
        yield Fault(
            "reader",
            f"must be one of {', '.join(ROW_READERS)} in a {card.type} task, which needs rows; got '{card.reader}'",
        )
    if "answer" not in card.columns:
        yield Fault("columns.answer", "missing; name the column that holds the answer or label")
    if "options" in card.columns:
        yield Fault("columns.options", "this name is reserved; describe options under 'options:'")
    if card.type == "nli" and not card.labels:
        yield Fault("labels", "missing; map each official label to the word that the answer uses")
    if card.triggers:
        yield Fault("triggers", f"unused in a {card.type} task; drop the key")
    if card.options and card.labels:
        yield Fault("labels", "unused beside options; drop one of them")
    no_choice = card.type == "qa" and not card.options and not card.labels
    if card.answer == "likelihood" and (card.type == "summarization" or no_choice):
        text = "there are no options to compare; use answer: generation, or give labels or options"
        yield Fault("answer", text, ("options", "labels"))
    fields = [name for name in card.columns if name not in ("id", "document", "answer")]
    if card.options:
        fields.append("options")
    yield from _template_faults(card, fields)
    if card.options and "{options}" not in card.input:
        yield Fault("input", "does not show the options; add {options}")


def _template_faults(card: TaskCard, known: Collection[str]) -> Iterator[Fault]:
    used = _TEMPLATE_FIELD.findall(card.input)
    fields = f"fields are {', '.join(known)}" if known else "name columns to show"
    for name in used:
        if name not in known:
            yield Fault(
                "input",
                f"unknown field {{{shown_key(name)}}}; {fields}{did_you_mean(name, known)}",
                ("columns.*", "options"),
            )
    if not used:
        yield Fault("input", f"must show at least one field of the data; {fields}", ("columns.*",))
