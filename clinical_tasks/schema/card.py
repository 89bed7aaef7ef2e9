"""The task card: everything that distinguishes one dataset from another, as data. `docs/data.md` documents the YAML."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TASK_TYPES = ("ner", "re", "qa", "nli", "summarization")
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class SplitSpec:
    """Where a split comes from: released files, perhaps filtered by id, or a share held out of another split."""

    files: tuple[str, ...] = ()
    ids_from: str = ""
    ids_not_in: str = ""
    hold_out_from: str = ""
    fraction: float = 0.0


@dataclass(frozen=True)
class OptionsSpec:
    """Multiple choice: which columns hold the options, how the gold answer names one, how they are laid out.

    One column may hold a list of texts, a mapping from key to text, or a list of objects (then `text` and `key` name
    their fields). `gold` is letter | index0 | index1 | index | text | key. Corpora count from 0 and from 1: it is
    stated, or with `index` found out from the whole file, where the answers must show it; never guessed.
    """

    columns: tuple[str, ...]
    gold: str
    text: str = ""
    key: str = ""
    layout: str = "{letter}. {text}"


@dataclass(frozen=True)
class RelationSpec:
    """How relations are compared: between mentions (spans) or between document-level entities (ids); types of the two
    ends.

    Where relations are `symmetric`, the order of the ends does not matter.
    """

    level: str = "mention"
    head: tuple[str, ...] = ()
    tail: tuple[str, ...] = ()
    symmetric: bool = False


@dataclass(frozen=True)
class TaskCard:
    """A checked card. Build one with `load_card`; field names are the YAML keys, except `path`, the file it came
    from.
    """

    name: str
    type: str
    reader: str
    splits: dict[str, SplitSpec]
    input: str
    metric: str
    licence: str
    access: str
    folder: str
    answer: str = "generation"
    title: str = ""
    columns: dict[str, tuple[str, ...]] = field(default_factory=dict)
    reader_options: dict[str, Any] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    ignore_labels: tuple[str, ...] = ()
    options: OptionsSpec | None = None
    relations: RelationSpec = RelationSpec()
    instruction: str = ""
    extra_metrics: tuple[str, ...] = ()
    duplicates: str = "set"
    triggers: tuple[str, ...] = ()
    rouge_stemmer: bool = True
    citation: str = ""
    url: str = ""
    protocol: str = ""
    published: dict[str, dict[str, int]] = field(default_factory=dict)
    path: Path = Path()

    def fingerprint(self) -> str:
        """SHA-256 of the card's content, whatever file it lies in and however that file is laid out."""
        content = dataclasses.asdict(self)
        del content["path"]
        # The order of labels is content (it is the order of the options); that of every other mapping is not.
        content["labels"] = list(self.labels.items())
        return hashlib.sha256(json.dumps(content, sort_keys=True, ensure_ascii=True).encode()).hexdigest()

    def written(self, label: str) -> str:
        """The word that an answer uses for an official label; the label itself where the card lists none."""
        return self.labels.get(label, label)

    def keeps(self, label: str) -> bool:
        """Whether annotations of this type belong to the task: all do where the card lists no labels."""
        return not self.labels or label in self.labels
