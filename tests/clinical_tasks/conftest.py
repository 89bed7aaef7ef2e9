"""Cards and corpora for the tests, all invented; real public corpora only through CLINICAL_DATA_ROOT."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from clinical_tasks import TaskCard, load_card

# Stands for a patient's data: it is put into every broken file and must never come out of an error message.
CANARY = "Zebulon Quackenbush"

BASES: dict[str, dict[str, Any]] = {
    "ner": {
        "reader": "brat",
        "input": "{text}\nMentions:",
        "metric": "span_f1_strict",
        "splits": {"test": "*.txt"},
        "labels": {"Drug": "drug", "Problem": "problem"},
    },
    "re": {
        "reader": "brat",
        "input": "{text}\nRelations:",
        "metric": "relation_f1",
        "splits": {"test": "*.txt"},
        "labels": {"Treats": "treats", "Causes": "causes"},
    },
    "qa": {
        "reader": "jsonl",
        "input": "{question}\nAnswer:",
        "metric": "accuracy",
        "splits": {"test": "test.jsonl"},
        "columns": {"question": "q", "answer": "a"},
        "labels": {"y": "yes", "n": "no", "m": "maybe"},
    },
    "nli": {
        "reader": "jsonl",
        "input": "{premise}\n{hypothesis}",
        "metric": "accuracy",
        "splits": {"test": "test.jsonl"},
        "columns": {"premise": "sentence1", "hypothesis": "sentence2", "answer": "gold_label"},
        "labels": {"entailment": "yes", "contradiction": "no", "neutral": "maybe"},
    },
    "summarization": {
        "reader": "csv",
        "input": "{note}\nSummary:",
        "metric": "rougeL",
        "splits": {"test": "test.csv"},
        "columns": {"note": "note", "answer": "summary"},
    },
}

CardMaker = Callable[..., TaskCard]


@pytest.fixture
def canary() -> str:
    return CANARY


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of the task `mine` inside the data root `tmp_path`."""
    path = tmp_path / "mine"
    path.mkdir()
    return path


@pytest.fixture
def card(tmp_path: Path) -> CardMaker:
    """`card("ner", metric="text_set_f1")`: a valid card of a type with some keys replaced (None removes one),
    loaded from YAML.
    """

    def make(kind: str, **changes: Any) -> TaskCard:
        content = {"name": "mine", "type": kind, "licence": "invented", "access": "public", **BASES[kind], **changes}
        path = tmp_path / "mine.yaml"
        path.write_text(
            yaml.safe_dump({key: value for key, value in content.items() if value is not None}, sort_keys=False)
        )
        return load_card(path)

    return make


@pytest.fixture
def brat(folder: Path) -> Callable[..., Path]:
    """`brat("a", "text", "T1\\t...")` writes a note and its annotations and returns the .ann."""

    def write(name: str, text: str, annotations: str) -> Path:
        (folder / f"{name}.txt").write_text(text, encoding="utf-8", newline="")
        path = folder / f"{name}.ann"
        path.write_text(annotations, encoding="utf-8", newline="")
        return path

    return write


@pytest.fixture
def corpora() -> Path:
    """Real public corpora laid out as a data root: pubmedqa/, bc5cdr/, mts_dialog/."""
    root = os.environ.get("CLINICAL_DATA_ROOT", "")
    if not root:
        pytest.skip("CLINICAL_DATA_ROOT IS NOT SET: the oracles on real public corpora did NOT run")
    return Path(root)
