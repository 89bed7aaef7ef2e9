"""From a YAML mapping to a checked `TaskCard`: every problem of a card in one go, each with its key and its fix."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from clinical_tasks.metrics import ROUGE_TYPES
from clinical_tasks.readers import READER_OPTIONS, ROW_READERS
from clinical_tasks.schema import (
    SPLITS,
    TASK_TYPES,
    CardError,
    OptionsSpec,
    RelationSpec,
    SplitSpec,
    TaskCard,
    did_you_mean,
)

REQUIRED = ("name", "type", "reader", "splits", "input", "metric", "licence", "access")
TEXT_KEYS = (
    "name",
    "type",
    "reader",
    "folder",
    "title",
    "input",
    "instruction",
    "metric",
    "answer",
    "duplicates",
    "licence",
    "access",
    "citation",
    "url",
    "protocol",
)
KEYS = (
    *TEXT_KEYS,
    "splits",
    "columns",
    "reader_options",
    "labels",
    "ignore_labels",
    "options",
    "relations",
    "extra_metrics",
    "rouge_stemmer",
    "triggers",
    "published",
)
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
_PUBLISHED = ("documents", "mentions", "relations")


def build_card(raw: dict[str, Any], path: Path) -> TaskCard:
    """Check a mapping and build the card. Raises `CardError` with all its problems."""
    check = _Checker()
    check.keys("", raw, KEYS)
    for key in REQUIRED:
        if raw.get(key) in (None, "", {}):
            check.problem(key, "missing", f"add '{key}:' (docs/data.md says what it holds)")
    texts = {key: check.text(key, raw[key]).strip("\n") for key in TEXT_KEYS if raw.get(key) is not None}
    name = texts.get("name", "")
    if name and not re.fullmatch(r"[A-Za-z0-9_\-]+", name):
        check.problem("name", "holds characters other than letters, digits, _ and -", "it names files and options")
    check.one_of("type", texts.get("type"), TASK_TYPES)
    check.one_of("reader", texts.get("reader"), READER_OPTIONS)
    check.one_of("answer", texts.get("answer"), ("likelihood", "generation"))
    check.one_of("duplicates", texts.get("duplicates"), ("set", "discard", "penalise"))
    labels = {str(label): str(word) for label, word in check.mapping("labels", raw.get("labels")).items()}
    # What is missing has been noted above; an empty text lets the other checks go on.
    defaults = dict.fromkeys((key for key in REQUIRED if key != "splits"), "") | {
        "folder": name,
        "answer": _default_answer(raw),
    }
    card = TaskCard(
        **(defaults | texts),
        splits=_splits(check, raw.get("splits")),
        columns={
            str(key): check.names(f"columns.{key}", value)
            for key, value in check.mapping("columns", raw.get("columns")).items()
        },
        reader_options=_reader_options(check, raw.get("reader_options"), texts.get("reader", "")),
        labels=labels,
        ignore_labels=check.names("ignore_labels", raw.get("ignore_labels")),
        options=_options(check, raw.get("options")),
        relations=_relations(check, raw.get("relations")),
        extra_metrics=check.names("extra_metrics", raw.get("extra_metrics")),
        rouge_stemmer=check.flag("rouge_stemmer", raw.get("rouge_stemmer", True)),
        triggers=check.names("triggers", raw.get("triggers")),
        published=_published(check, raw.get("published")),
        path=path,
    )
    _check_together(check, card)
    if check.problems:
        raise CardError(path, check.problems)
    return card


def _default_answer(raw: dict[str, Any]) -> str:
    """A choice is scored by likelihood unless the card says otherwise; everything else is generated."""
    choice = raw.get("type") == "nli" or (raw.get("type") == "qa" and (raw.get("options") or raw.get("labels")))
    return "likelihood" if choice else "generation"


class _Checker:
    """Collects problems; each reader of a value returns something usable, so that checking goes on."""

    def __init__(self) -> None:
        self.problems: list[str] = []

    def problem(self, key: str, reason: str, fix: str) -> None:
        self.problems.append(f"{key}: {reason}; {fix}")

    def keys(self, prefix: str, raw: dict[str, Any], known: Collection[str]) -> None:
        for key in raw:
            if str(key) not in known:
                self.problem(
                    f"{prefix}{key}", f"unknown key{did_you_mean(str(key), known)}", f"known are {', '.join(known)}"
                )

    def text(self, key: str, value: Any) -> str:
        if not isinstance(value, (str, int, float)) or isinstance(value, bool):
            self.problem(key, "not a text", "write words, in quotes if they hold a colon")
            return ""
        return str(value)

    def one_of(self, key: str, value: str | None, known: Collection[str]) -> None:
        if value and value not in known:
            self.problem(key, f"unknown value '{value}'{did_you_mean(value, known)}", f"use one of {', '.join(known)}")

    def mapping(self, key: str, value: Any) -> dict[Any, Any]:
        if value is None or isinstance(value, dict):
            return value or {}
        self.problem(key, "not a mapping", "write 'name: value' lines below it")
        return {}

    def names(self, key: str, value: Any) -> tuple[str, ...]:
        values = value if isinstance(value, list) else [] if value is None else [value]
        if not all(isinstance(item, (str, int)) and not isinstance(item, bool) for item in values):
            self.problem(key, "not a name or a list of names", "write [a, b]")
            return ()
        return tuple(str(item) for item in values)

    def flag(self, key: str, value: Any) -> bool:
        if not isinstance(value, bool):
            self.problem(key, "not true or false", "write true or false")
        return value is True


def _splits(check: _Checker, raw: Any) -> dict[str, SplitSpec]:
    specs = {}
    for split, content in check.mapping("splits", raw).items():
        key = f"splits.{split}"
        check.one_of(key, str(split), SPLITS)
        content = {"files": content} if isinstance(content, (str, list)) else check.mapping(key, content)
        check.keys(f"{key}.", content, ("files", "ids_from", "ids_not_in", "hold_out"))
        held = check.mapping(f"{key}.hold_out", content.get("hold_out"))
        check.keys(f"{key}.hold_out.", held, ("from", "fraction"))
        fraction = held.get("fraction", 0.0)
        if held and not (isinstance(fraction, float) and 0 < fraction < 1):
            check.problem(f"{key}.hold_out.fraction", "not between 0 and 1", "0.1 holds out a tenth")
            fraction = 0.0
        if bool(held) == bool(content.get("files")):
            check.problem(
                key,
                "needs either files or hold_out",
                "write 'files: [NAME]' or 'hold_out: {from: train, fraction: 0.1}'",
            )
        files = check.names(f"{key}.files", content.get("files"))
        ids = {
            name: check.text(f"{key}.{name}", content[name]) for name in ("ids_from", "ids_not_in") if name in content
        }
        for name in (*files, *ids.values()):
            if Path(name).is_absolute() or ".." in Path(name).parts:
                check.problem(
                    f"{key}.files", f"'{name}' leads out of the task's folder", "name files inside DATA_ROOT/<folder>"
                )
        specs[str(split)] = SplitSpec(
            files, ids.get("ids_from", ""), ids.get("ids_not_in", ""), str(held.get("from", "")), fraction
        )
    for split, spec in specs.items():
        if spec.hold_out_from and (spec.hold_out_from not in specs or specs[spec.hold_out_from].hold_out_from):
            reason = f"'{spec.hold_out_from}' is no split with files"
            check.problem(f"splits.{split}.hold_out.from", reason, "hold out of a split that has files")
    for parent in specs:
        if sum(spec.fraction for spec in specs.values() if spec.hold_out_from == parent) >= 1:
            check.problem(
                "splits", f"nothing is left of '{parent}'", "let the fractions held out of it sum to less than 1"
            )
    return specs


def _reader_options(check: _Checker, raw: Any, reader: str) -> dict[str, Any]:
    options = {str(key): value for key, value in check.mapping("reader_options", raw).items()}
    known = READER_OPTIONS.get(reader, {})
    if reader in READER_OPTIONS:
        for key in options.keys() - known.keys():
            fix = f"reader '{reader}' knows {', '.join(known)}" if known else f"reader '{reader}' has no options"
            check.problem(f"reader_options.{key}", f"unknown option{did_you_mean(key, known)}", fix)
    for key in options.keys() & known.keys():
        if not isinstance(options[key], known[key]):
            check.problem(f"reader_options.{key}", "of the wrong kind", f"write a {known[key].__name__}")
    if isinstance(options.get("delimiter"), str) and len(options["delimiter"]) != 1:
        check.problem("reader_options.delimiter", "not one character", "write for example ';'")
    check.one_of("reader_options.orient", str(options.get("orient", "")), ("list", "by_id", "columns"))
    check.one_of("reader_options.paraphrases", str(options.get("paraphrases", "")), ("first", "all"))
    check.one_of("reader_options.events", str(options.get("events", "")), ("relations", "argument_types", "ignore"))
    check.one_of("reader_options.types", str(options.get("types", "")), ("concept", "assertion"))
    return options


def _options(check: _Checker, raw: Any) -> OptionsSpec | None:
    content = check.mapping("options", raw)
    if not content:
        return None
    check.keys("options.", content, ("columns", "gold", "text", "key", "layout"))
    columns = check.names("options.columns", content.get("columns"))
    texts = {
        key: check.text(f"options.{key}", content[key]) for key in ("gold", "text", "key", "layout") if key in content
    }
    if not columns:
        check.problem(
            "options.columns", "missing", "name the columns that hold the options, or the one that holds them all"
        )
    if "gold" not in texts:
        check.problem(
            "options.gold", "missing", "say how the answer names an option: letter, index0, index1, index, text or key"
        )
    check.one_of("options.gold", texts.get("gold"), ("letter", "index0", "index1", "index", "text", "key"))
    layout = texts.get("layout", "{letter}. {text}")
    if set(re.findall(r"\{(\w+)\}", layout)) != {"letter", "text"}:
        check.problem("options.layout", "needs {letter} and {text}", "write for example '{letter}. {text}'")
    return OptionsSpec(columns, texts.get("gold", ""), texts.get("text", ""), texts.get("key", ""), layout)


def _relations(check: _Checker, raw: Any) -> RelationSpec:
    content = check.mapping("relations", raw)
    check.keys("relations.", content, ("level", "head", "tail", "symmetric"))
    level = check.text("relations.level", content.get("level", "mention"))
    check.one_of("relations.level", level, ("mention", "entity"))
    head, tail = (check.names(f"relations.{end}", content.get(end)) for end in ("head", "tail"))
    return RelationSpec(level, head, tail, check.flag("relations.symmetric", content.get("symmetric", False)))


def _published(check: _Checker, raw: Any) -> dict[str, dict[str, int]]:
    published = {}
    for split, content in check.mapping("published", raw).items():
        key = f"published.{split}"
        check.one_of(key, str(split), SPLITS)
        counts = {"documents": content} if isinstance(content, int) else check.mapping(key, content)
        check.keys(f"{key}.", counts, _PUBLISHED)
        if not all(isinstance(count, int) for count in counts.values()):
            check.problem(key, "not numbers", "write whole numbers")
        published[str(split)] = counts
    return published


def _check_together(check: _Checker, card: TaskCard) -> None:
    """What no key can tell alone."""
    if card.type not in TASK_TYPES or card.reader not in READER_OPTIONS:
        return
    for key, metric in (("metric", card.metric), *(("extra_metrics", metric) for metric in card.extra_metrics)):
        known = _known_metrics(card)
        if metric and metric not in known:
            check.problem(
                key,
                f"unknown for type {card.type}: '{metric}'{did_you_mean(metric, known)}",
                f"use one of {', '.join(known)}",
            )
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


def _known_metrics(card: TaskCard) -> tuple[str, ...]:
    if card.type == "ner" and card.triggers:
        return (*METRICS["ner"], *(f"span_{name}_sdoh_2022" for name in _SCORES))
    if card.type == "re" and card.relations.level == "entity":
        return METRICS["re"][:3]
    if card.type != "qa":
        return METRICS[card.type]
    return METRICS["qa"][:2] if card.options or card.labels else METRICS["qa"][2:]


def _check_annotated(check: _Checker, card: TaskCard) -> None:
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


def _check_rows(check: _Checker, card: TaskCard) -> None:
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
    _check_template(check, card, [*fields, *(["options"] if card.options else [])])
    if card.options and "{options}" not in card.input:
        check.problem("input", "does not show the options", "add {options}")


def _check_template(check: _Checker, card: TaskCard, known: Collection[str]) -> None:
    used = re.findall(r"\{(\w+)\}", card.input)
    for name in used:
        if name not in known:
            check.problem(
                "input", f"unknown field {{{name}}}{did_you_mean(name, known)}", f"fields are {', '.join(known)}"
            )
    if card.input and not used:
        check.problem("input", "shows no field of the data", f"fields are {', '.join(known)}")
