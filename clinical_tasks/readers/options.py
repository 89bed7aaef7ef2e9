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
            "brat: events as (trigger, role, argument), or as (trigger, type of the argument, argument), or left out."
        ),
    )


@dataclass(frozen=True)
class I2b2Options:
    types: Literal["concept", "assertion"] = field(
        default="concept", metadata=about("i2b2: whether a concept's type is its own or its assertion.")
    )


@dataclass(frozen=True)
class ChemprotOptions:
    sentence_lines: bool = field(default=False, metadata=about("chemprot: each sentence of an abstract begins a line."))


@dataclass(frozen=True)
class JsonOptions:
    records: str = field(default="", metadata=about("json: dotted path to the records, * for every entry."))
    orient: Literal["list", "by_id", "columns"] | None = field(
        default=None,
        metadata=about("json: how the records are stored; default: a list or a mapping by id, whichever is found."),
    )


@dataclass(frozen=True)
class SquadOptions:
    titles: list[str] = field(default_factory=list, metadata=about("squad: the parts that are read; default: all."))
    paraphrases: Literal["first", "all"] = field(
        default="first", metadata=about("squad: which of a question's paraphrases become rows.")
    )


@dataclass(frozen=True)
class TableOptions:
    header: list[str] = field(
        default_factory=list, metadata=about("csv, tsv, xlsx: the columns' names, where the file has no header line.")
    )
    delimiter: str = field(
        default=",",
        metadata=about(
            "csv, tsv: the field separator; default: a comma, a tab.",
            pattern="^.$",
            wrong="must be one character, for example ';'",
        ),
    )
    quoting: bool = field(
        default=True,
        metadata=about("csv, tsv: whether quotes hold fields together; default: true for csv, false for tsv."),
    )


@dataclass(frozen=True)
class XlsxOptions:
    sheet: str = field(default="", metadata=about("xlsx: the sheet's name; default: the first."))
    header: list[str] = field(
        default_factory=list, metadata=about("csv, tsv, xlsx: the columns' names, where the file has no header line.")
    )
