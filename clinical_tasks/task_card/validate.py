"""From a YAML mapping to a checked `TaskCard`: every problem of a card in one go, each with its key and its fix."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from clinical_tasks.readers import READER_OPTIONS
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
from clinical_tasks.task_card.checker import Checker
from clinical_tasks.task_card.cross_checks import check_together

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
_PUBLISHED = ("documents", "mentions", "relations")


def build_card(raw: dict[str, Any], path: Path) -> TaskCard:
    """Check a mapping and build the card. Raises `CardError` with all its problems."""
    check = Checker()
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
    check_together(check, card)
    if check.problems:
        raise CardError(path, check.problems)
    return card


def _default_answer(raw: dict[str, Any]) -> str:
    """A choice is scored by likelihood unless the card says otherwise; everything else is generated."""
    choice = raw.get("type") == "nli" or (raw.get("type") == "qa" and (raw.get("options") or raw.get("labels")))
    return "likelihood" if choice else "generation"


def _splits(check: Checker, raw: Any) -> dict[str, SplitSpec]:
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


def _reader_options(check: Checker, raw: Any, reader: str) -> dict[str, Any]:
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


def _options(check: Checker, raw: Any) -> OptionsSpec | None:
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


def _relations(check: Checker, raw: Any) -> RelationSpec:
    content = check.mapping("relations", raw)
    check.keys("relations.", content, ("level", "head", "tail", "symmetric"))
    level = check.text("relations.level", content.get("level", "mention"))
    check.one_of("relations.level", level, ("mention", "entity"))
    head, tail = (check.names(f"relations.{end}", content.get(end)) for end in ("head", "tail"))
    return RelationSpec(level, head, tail, check.flag("relations.symmetric", content.get("symmetric", False)))


def _published(check: Checker, raw: Any) -> dict[str, dict[str, int]]:
    published = {}
    for split, content in check.mapping("published", raw).items():
        key = f"published.{split}"
        check.one_of(key, str(split), SPLITS)
        counts = {"documents": content} if isinstance(content, int) else check.mapping(key, content)
        check.keys(f"{key}.", counts, _PUBLISHED)
        if not set(map(type, counts.values())) <= {int}:
            check.problem(key, "not numbers", "write whole numbers")
        published[str(split)] = counts
    return published
