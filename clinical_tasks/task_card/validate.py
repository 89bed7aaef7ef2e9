"""From a YAML mapping to a checked `TaskCard`: every problem of a card in one go, each with its key and its fix."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from clinical_tasks.readers import READER_OPTIONS
from clinical_tasks.schema import CardError, TaskCard
from clinical_tasks.task_card.cross_checks import faults
from strict_yaml import Problem, build, fields_of, must_be_one_of


def build_card(raw: dict[str, Any], path: Path) -> TaskCard:
    """Check a mapping and build the card. Raises `CardError` with all its problems."""
    content = _given(raw)
    built, problems = build(TaskCard, content)
    card = dataclasses.replace(built, path=path, **_defaults(content, built))
    if card.reader not in READER_OPTIONS:
        text = must_be_one_of(card.reader, READER_OPTIONS)
        problems.append(Problem("reader", text, "choice", card.reader, tuple(READER_OPTIONS), ("reader",)))
        card = dataclasses.replace(card, reader=next(iter(READER_OPTIONS)))
    if not any(problem.path[0] in ("reader", "reader_options") for problem in problems):
        options, found = _reader_options(card)
        problems += found
        card = dataclasses.replace(card, reader_options=options)
    told = [problem.line for problem in problems]
    wrong = [problem.key for problem in problems]
    told += [f"{fault.key}: {fault.text}" for fault in faults(card) if not fault.rests_on(wrong)]
    if told:
        raise CardError(path, told)
    return card


def _given(raw: dict[str, Any]) -> dict[str, Any]:
    """The keys that hold something: one with nothing behind it is not given, and takes away what an extended card
    says. Line ends around a text are the YAML block's.
    """
    known = fields_of(TaskCard)
    kept = {key: value for key, value in raw.items() if value is not None or key not in known}
    return {key: value.strip("\n") if isinstance(value, str) else value for key, value in kept.items()}


def _defaults(content: dict[str, Any], card: TaskCard) -> dict[str, Any]:
    """The folder is named as the task. A choice is scored by likelihood; everything else is generated."""
    out = {}
    if "folder" not in content:
        out["folder"] = card.name
    if "answer" not in content:
        choice = card.type == "nli" or (card.type == "qa" and bool(card.options or card.labels))
        out["answer"] = "likelihood" if choice else "generation"
    return out


def _reader_options(card: TaskCard) -> tuple[dict[str, Any], list[Problem]]:
    """The options that the card gives its reader, as the reader's own types, and what is wrong with them."""
    options, problems = build(READER_OPTIONS[card.reader], card.reader_options, "reader_options.")
    given = {key: getattr(options, key) for key in card.reader_options if hasattr(options, key)}
    return {key: value for key, value in given.items() if value is not None}, problems
