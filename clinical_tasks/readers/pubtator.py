"""PubTator: `ID|t|title`, `ID|a|abstract`, then tab-separated mentions and relations. Offsets run over title + one
character + abstract.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from clinical_tasks.readers.files import lines_of
from clinical_tasks.schema import Document, Mention, Relation, TaskCard, mention_order, one_line, read_error
from strict_yaml import counted

_NUMBER = re.compile(r"[0-9]{1,9}")
_TEXT_LINE = re.compile(r"([^|\t]+)\|([ta])\|(.*)", re.DOTALL)
# Between title and abstract the format counts one character and does not say which.
_JOINT = "\n"


@dataclass
class _Draft:
    """A document while its lines are being read."""

    line: int
    title: str | None = None
    abstract: str | None = None
    mentions: list[tuple[int, list[str]]] = field(default_factory=list)
    relations: list[Relation] = field(default_factory=list)
    # The annotation lines so far; set once the text has come a second time.
    lines: set[tuple[str, ...]] = field(default_factory=set)
    repeated: bool = False
    left_out: Counter[str] = field(default_factory=Counter)


def read_pubtator_files(paths: list[Path], card: TaskCard, folder: Path) -> Iterator[Document]:
    """The documents of all files, in file order."""
    for path in paths:
        yield from read_pubtator(path)


def read_pubtator(path: Path | str) -> list[Document]:
    """Read one file of abstracts with their annotations, or of predictions in the same grammar (a score may end each
    line).

    A document that is there twice, as in the NCBI disease corpus, is read once; what its second copy repeats is
    counted.
    """
    path = Path(path)
    drafts: dict[str, _Draft] = {}
    for number, line in enumerate(lines_of(path), start=1):
        line = line.rstrip("\r")
        if not line.strip():
            continue
        if text_line := _TEXT_LINE.fullmatch(line):
            _add_text(path, number, drafts, *text_line.groups())
        else:
            _add_annotation(path, number, drafts, columns=line.split("\t"))
    return [_document(path, key, draft) for key, draft in drafts.items()]


def _add_text(path: Path, number: int, drafts: dict[str, _Draft], key: str, part: str, text: str) -> None:
    draft = drafts.setdefault(key, _Draft(number))
    name = "title" if part == "t" else "abstract"
    known = draft.title if part == "t" else draft.abstract
    if known == text:
        draft.repeated = True
        draft.left_out["text lines repeated"] += 1
    elif known is not None:
        reason = f"duplicate {name} for the same document"
        raise read_error(path, reason, line=number, fix="each document occurs once in a file")
    if part == "t":
        draft.title = text
    else:
        draft.abstract = text


def _add_annotation(path: Path, number: int, drafts: dict[str, _Draft], columns: list[str]) -> None:
    if columns[0] not in drafts:
        raise read_error(
            path,
            "neither a text line nor an annotation of a document above",
            line=number,
            fix="write 'ID|t|...' or columns separated by tabs",
        )
    draft = drafts[columns[0]]
    again = draft.repeated and tuple(columns) in draft.lines
    draft.lines.add(tuple(columns))
    # A tab at the end of a line, as some tools leave it.
    while len(columns) > 6 and not columns[-1]:
        columns.pop()
    if again:
        draft.left_out["annotations repeated"] += 1
    elif 6 <= len(columns) <= 8 and all(_NUMBER.fullmatch(column) for column in columns[1:3]):
        draft.mentions.append((number, columns))
    elif len(columns) in (4, 5) and not columns[1].isdecimal():
        draft.relations.append(Relation(columns[1], strip_mesh(columns[2]), strip_mesh(columns[3])))
    else:
        verb = "is" if len(columns) == 1 else "are"
        reason = f"{counted(len(columns), 'column')} {verb} neither a mention nor a relation"
        raise read_error(
            path,
            reason,
            line=number,
            fix="mentions have 6 or 7 columns (id, start, end, text, type, concept), relations 4",
        )


def _document(path: Path, key: str, draft: _Draft) -> Document:
    if draft.title is None:
        raise read_error(path, "a document without a title line", line=draft.line, fix="add 'ID|t|...'")
    text = draft.title
    if draft.abstract is not None:
        text += _JOINT + draft.abstract
    mentions, mismatches = [], []
    for number, columns in draft.mentions:
        start, end = int(columns[1]), int(columns[2])
        if start >= end or end > len(text):
            reason = f"span {start}-{end} is empty or beyond the document's {counted(len(text), 'character')}"
            raise read_error(
                path, reason, line=number, fix="offsets count characters over title, one character, abstract"
            )
        if one_line(text[start:end]) != one_line(columns[3]):
            mismatches.append(f"{path}:{number}")
        ids = concept_ids(columns[5])
        # Column 7 is the single texts of a composite mention in a corpus, but a score in a file of predictions.
        parts = tuple(columns[6].split("|")) if len(columns) > 6 else ()
        if len(ids) < 2 or len(parts) != len(ids):
            parts = ()
        mentions.append(Mention(f"line{number}", columns[4], start, end, ids=ids, parts=parts))
    relations = tuple(dict.fromkeys(draft.relations))
    draft.left_out["relations repeated"] += len(draft.relations) - len(relations)
    return Document(
        doc_id=key,
        text=text,
        mentions=tuple(sorted(mentions, key=mention_order)),
        relations=relations,
        source=f"{path}:{draft.line}",
        mismatches=tuple(mismatches),
        left_out={name: count for name, count in draft.left_out.items() if count},
    )


def concept_ids(column: str) -> tuple[str, ...]:
    """The identifiers of a mention; `-1`, `-` and nothing at all stand for none."""
    return tuple(strip_mesh(part) for part in column.split("|") if part.strip() not in ("", "-1", "-"))


def strip_mesh(identifier: str) -> str:
    """`MESH:D003866` and `D003866` are one concept; other vocabularies keep their prefix."""
    return identifier.strip().removeprefix("MESH:")
