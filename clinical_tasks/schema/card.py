"""The task card: everything that distinguishes one dataset from another, as data. `docs/reference/data.md`
documents the YAML.

The fields are the keys of the file, and their metadata what the reader of cards, editors and this text know of them.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from strict_yaml import NO_KEY, about

TaskType = Literal["ner", "re", "qa", "nli", "summarization"]
SplitName = Literal["train", "validation", "test"]
SPLITS: tuple[str, ...] = get_args(SplitName)


@dataclass(frozen=True)
class HoldOut:
    """A share of another split's documents, chosen by their ids; they leave that split."""

    split: SplitName = field(
        metadata=about(
            "The split that the documents are taken from.", key="from", missing="name a split", stand_in="train"
        )
    )
    fraction: float = field(
        metadata=about(
            "The share of that split's documents.",
            above=0,
            below=1,
            wrong="must be > 0 and < 1 (0.1 holds out a tenth)",
            missing="0.1 holds out a tenth",
            stand_in=0.1,
        )
    )


@dataclass(frozen=True)
class SplitSpec:
    """Where a split comes from: released files, perhaps filtered by id, or a share held out of another split."""

    files: tuple[str, ...] = field(
        default=(), metadata=about("Names or globs of released files, below the task's folder.", one=True)
    )
    ids_from: str = field(
        default="",
        metadata=about(
            "A file of ids: only these documents are kept. It holds a JSON object (its keys count), a JSON list, or "
            "one id per line."
        ),
    )
    ids_not_in: str = field(default="", metadata=about("A file of ids: these documents are left out."))
    hold_out: HoldOut | None = field(
        default=None,
        metadata=about(
            "In place of files: a share of another split's documents, chosen by a hash of their ids. They leave that "
            "split."
        ),
    )

    @property
    def hold_out_from(self) -> str:
        """The split that it is held out of; empty where it has files."""
        return self.hold_out.split if self.hold_out else ""

    @property
    def fraction(self) -> float:
        """The share that is held out; 0 where it has files."""
        return self.hold_out.fraction if self.hold_out else 0.0


@dataclass(frozen=True)
class OptionsSpec:
    """Multiple choice: which columns hold the options, how the gold answer names one, how they are laid out.

    Corpora count from 0 and from 1: `gold` states it, or with `index` it is found out from the whole file, where the
    answers must show it; never guessed.
    """

    columns: tuple[str, ...] = field(
        metadata=about(
            "The columns that hold one option each, or the one column that holds a list of texts, a mapping from key "
            "to text, or a list of objects.",
            one=True,
            missing="name the columns that hold the options, or the one that holds them all",
            stand_in=["options"],
        )
    )
    gold: Literal["letter", "index0", "index1", "index", "text", "key"] = field(
        metadata=about(
            "How columns.answer names the correct option. index: find out from the whole file whether it counts from "
            "0 or 1.",
            missing="say how the answer names an option: letter, index0, index1, index, text or key",
            stand_in="letter",
        )
    )
    text: str = field(default="", metadata=about("In a list of objects, the field that holds the text of an option."))
    key: str = field(default="", metadata=about("In a list of objects, the field that holds the key of an option."))
    layout: str = field(
        default="{letter}. {text}",
        metadata=about("How an option is written where input has {options}; it contains {letter} and {text}."),
    )


@dataclass(frozen=True)
class RelationSpec:
    """How relations are compared: between mentions (spans) or between document-level entities (ids); types of the two
    ends.
    """

    level: Literal["mention", "entity"] = field(
        default="mention",
        metadata=about("What relations connect: mentions (spans) or a document's entities (identifiers)."),
    )
    head: tuple[str, ...] = field(default=(), metadata=about("Mention types of the first end.", one=True))
    tail: tuple[str, ...] = field(default=(), metadata=about("Mention types of the second end.", one=True))
    symmetric: bool = field(default=False, metadata=about("Whether either order of the two ends is correct."))


@dataclass(frozen=True)
class PublishedCounts:
    """What a split holds as released, before anything is held out of it."""

    documents: int | None = field(default=None, metadata=about("Documents, or rows.", at_least=0))
    mentions: int | None = field(default=None, metadata=about("Annotated mentions.", at_least=0))
    relations: int | None = field(default=None, metadata=about("Annotated relations.", at_least=0))

    def given(self) -> dict[str, int]:
        """Those that the card states."""
        return {unit: count for unit, count in dataclasses.asdict(self).items() if count is not None}


_SAID = "see docs/reference/data.md"


@dataclass(frozen=True)
class TaskCard:
    """A checked card. Build one with `load_card`; fields are the YAML keys, except `path`, the file it came from."""

    name: str = field(
        metadata=about(
            "Name of the task in configurations, files and tables: letters, digits, _ and -.",
            pattern=r"^[A-Za-z0-9_\-]+$",
            wrong="must consist of letters, digits, _ and - (it names files and options)",
            missing=_SAID,
            stand_in="unnamed",
        )
    )
    type: TaskType = field(metadata=about("Type of the task.", missing=_SAID, stand_in="ner"))
    reader: str = field(  # a name in READERS of clinical_tasks/readers, which knows this class
        metadata=about(
            "Format of the released files: brat to ddi for annotated notes (ner, re), jsonl to xlsx for rows (other "
            "types).",
            missing=_SAID,
            stand_in="brat",
        )
    )
    splits: dict[str, SplitSpec] = field(
        metadata=about(
            "Where each split comes from: files, or a share held out of another split. A task needs a test split.",
            keys=SPLITS,
            short="files",
            missing=_SAID,
            stand_in={},
        )
    )
    input: str = field(
        metadata=about(
            "Template of the text that the model reads, with fields in braces. Annotated notes have {text}, relations "
            "also {entities}; rows have their columns, and {options}.",
            missing=_SAID,
            stand_in="-",
        )
    )
    metric: str = field(metadata=about("The main score of the task.", missing=_SAID, stand_in="-"))
    licence: str = field(metadata=about("Terms under which the files may be used.", missing=_SAID, stand_in="-"))
    access: str = field(metadata=about("How to obtain the files.", missing=_SAID, stand_in="-"))
    folder: str = field(default="", metadata=about("Folder of the files below the data root; default: the name."))
    answer: Literal["likelihood", "generation"] = field(
        default="generation",
        metadata=about(
            "Whether options are compared by their likelihood, or an answer is generated. Default: likelihood where "
            "there are options."
        ),
    )
    title: str = field(default="", metadata=about("Name of the corpus as people write it."))
    columns: dict[str, tuple[str, ...]] = field(
        default_factory=dict,
        metadata=about(
            "For rows, name -> source. A source is a key, a dotted path, or a list of these, whose texts are joined by "
            "newlines. The names answer, id and document are special; all others are fields of input.",
            one=True,
        ),
    )
    reader_options: dict[str, Any] = field(
        default_factory=dict,
        metadata=about("What the reader must know about the files; each reader has its own options."),
    )
    labels: dict[str, str] = field(
        default_factory=dict,
        metadata=about(
            "Official label -> its word in the answer. For a choice, the options in their order.", numbers=True
        ),
    )
    ignore_labels: tuple[str, ...] = field(
        default=(),
        metadata=about('Rows with these answers are left out; "" stands for no answer.', one=True),
    )
    options: OptionsSpec | None = field(default=None, metadata=about("For multiple choice, where the options are."))
    relations: RelationSpec = field(
        default=RelationSpec(), metadata=about("How relations are compared, and which types they connect.")
    )
    instruction: str = field(
        default="", metadata=about("Instruction for a model without a trained prompt; never part of the input.")
    )
    extra_metrics: tuple[str, ...] = field(default=(), metadata=about("Further scores to report.", one=True))
    duplicates: Literal["set", "discard", "penalise"] = field(
        default="set",
        metadata=about("How lenient scores count a second prediction for the same gold annotation."),
    )
    triggers: tuple[str, ...] = field(
        default=(), metadata=about("ner: labels that sdoh_2022 scores match by overlap.", one=True)
    )
    rouge_stemmer: bool = field(default=True, metadata=about("Whether ROUGE compares the stems of words."))
    citation: str = field(default="", metadata=about("The paper to cite."))
    url: str = field(default="", metadata=about("Address where the corpus is described, or where access is requested."))
    protocol: str = field(
        default="", metadata=about("All choices that decide whether scores are comparable, in words for people.")
    )
    published: dict[str, PublishedCounts] = field(
        default_factory=dict,
        metadata=about(
            "What each split holds as released, before documents are held out: a number of documents or rows, or "
            "several counts.",
            keys=SPLITS,
            short="documents",
        ),
    )
    path: Path = field(default=Path(), metadata=NO_KEY)

    def fingerprint(self) -> str:
        """SHA-256 of the card's content, whatever file it lies in and however that file is laid out.

        Caches and checkpoints are found by it: keys of other names than the fields' stay as they were.
        """
        content = dataclasses.asdict(self)
        del content["path"]
        for name, spec in self.splits.items():
            del content["splits"][name]["hold_out"]
            content["splits"][name] |= {"hold_out_from": spec.hold_out_from, "fraction": spec.fraction}
        content["published"] = self.published_counts()
        # The order of labels is content (it is the order of the options); that of every other mapping is not.
        content["labels"] = list(self.labels.items())
        return hashlib.sha256(json.dumps(content, sort_keys=True, ensure_ascii=True).encode()).hexdigest()

    def published_counts(self) -> dict[str, dict[str, int]]:
        """Split -> unit -> what the release is said to hold."""
        return {split: counts.given() for split, counts in self.published.items()}

    def written(self, label: str) -> str:
        """The word that an answer uses for an official label; the label itself where the card lists none."""
        return self.labels.get(label, label)

    def keeps(self, label: str) -> bool:
        """Whether annotations of this type belong to the task: all do where the card lists no labels."""
        return not self.labels or label in self.labels
