"""What a card may tell each reader of its files, under `reader_options`. Defaults are what the reader does without."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from strict_yaml import about


@dataclass(frozen=True)
class NoOptions:
    """Of readers that need to be told nothing."""


@dataclass(frozen=True)
class BratOptions:
    events: Literal["relations", "argument_types", "ignore"] = field(
        default="ignore",
        metadata=about(
            "brat: how events are read: as relations (trigger, role, argument), as argument_types (trigger, type of "
            "the argument, argument), or not at all (ignore)."
        ),
    )


@dataclass(frozen=True)
class I2b2Options:
    types: Literal["concept", "assertion"] = field(
        default="concept", metadata=about("i2b2: whether the type of a concept is its own type or its assertion.")
    )


@dataclass(frozen=True)
class ChemprotOptions:
    sentence_lines: bool = field(
        default=False, metadata=about("chemprot: begin a new line with each sentence of an abstract.")
    )


@dataclass(frozen=True)
class JsonOptions:
    records: str = field(default="", metadata=about("json: dotted path to the records; * stands for every entry."))
    orient: Literal["list", "by_id", "columns"] | None = field(
        default=None,
        metadata=about("json: how the records are stored. Default: a list or a mapping by id, whichever the file has."),
    )


@dataclass(frozen=True)
class SquadOptions:
    titles: list[str] = field(default_factory=list, metadata=about("squad: titles of the parts to read. Default: all."))
    paraphrases: Literal["first", "all"] = field(
        default="first", metadata=about("squad: which of a question's paraphrases become rows.")
    )


@dataclass(frozen=True)
class TableOptions:
    header: list[str] = field(
        default_factory=list, metadata=about("csv, tsv, xlsx: names of the columns, where the file has no header line.")
    )
    delimiter: str = field(
        default=",",
        metadata=about(
            "csv, tsv: field separator. Default: a comma for csv, a tab for tsv.",
            pattern="^.$",
            wrong="must be one character, for example ';'",
        ),
    )
    quoting: bool = field(
        default=True,
        metadata=about("csv, tsv: whether fields can be quoted. Default: true for csv, false for tsv."),
    )


@dataclass(frozen=True)
class XlsxOptions:
    sheet: str = field(default="", metadata=about("xlsx: name of the sheet. Default: the first."))
    header: list[str] = field(
        default_factory=list, metadata=about("csv, tsv, xlsx: names of the columns, where the file has no header line.")
    )


# A dataclass for each reader: the keys of a card's `reader_options` that it knows.
READER_OPTIONS: dict[str, type] = {
    "brat": BratOptions,
    "pubtator": NoOptions,
    "i2b2": I2b2Options,
    "i2b2_2009": NoOptions,
    "i2b2_2012": NoOptions,
    "bioc": NoOptions,
    "chemprot": ChemprotOptions,
    "ddi": NoOptions,
    "jsonl": NoOptions,
    "json": JsonOptions,
    "csv": TableOptions,
    "tsv": TableOptions,
    "squad": SquadOptions,
    "xlsx": XlsxOptions,
}

# Readers of table rows, for question answering, inference and summarization; the others read annotated notes.
ROW_READERS = ("jsonl", "json", "csv", "tsv", "squad", "xlsx")
