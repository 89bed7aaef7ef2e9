"""i2b2/VA 2010: a `.txt` with the note, concepts in a `.con`, relations in a `.rel`, all of one name.

    c="chest pain" 13:2 13:3||t="problem"
    c="aspirin" 13:6 13:6||r="TrAP"||c="chest pain" 13:2 13:3

Lines count from 1 and end in "\\n" only; tokens count from 0 and are what stands between single spaces; the end token belongs to
the span, which may run over lines. The quoted text is lower-cased.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from clinical_tasks.card import TaskCard
from clinical_tasks.documents import Document, Mention, Relation, mention_order, one_line
from clinical_tasks.errors import read_error
from clinical_tasks.readers.files import read_text

_CONCEPT = r'c="(.*)" (\d+):(\d+) (\d+):(\d+)'
# Quoted texts may hold quotes and bars themselves; positions and labels cannot.
_CON_LINE = re.compile(_CONCEPT + r'\|\|t="([^"|]+)"\s*')
_REL_LINE = re.compile(_CONCEPT + r'\|\|r="([^"|]+)"\|\|' + _CONCEPT + r"\s*")

# (first line, first token, last line, last token)
Place = tuple[int, int, int, int]


def read_i2b2(paths: list[Path], card: TaskCard, folder: Path) -> list[Document]:
    """One document for each `.txt`; its id is the path inside the task's folder without the suffix.

    The release keeps notes, concepts and relations in folders of their own, so a split names them all; files belong together by
    their names. Each note needs a `.con` (empty if it has no concepts), and in a relation task a `.rel`.
    """
    notes, concepts, relations = (_by_name(paths, suffix) for suffix in (".txt", ".con", ".rel"))
    documents = []
    for name, path in notes.items():
        for suffix, found in ((".con", concepts), (".rel", relations)):
            if name not in found and (suffix == ".con" or card.type == "re"):
                fix = f"put it into one of the split's folders and name those files in splits, as in 'train/*/*{suffix}'"
                raise read_error(path, f"no {suffix} of this name among the split's files", fix=fix)
        documents.append(_read_note(path, concepts[name], relations.get(name), folder))
    return documents


def _by_name(paths: list[Path], suffix: str) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in paths:
        if path.suffix == suffix and found.setdefault(path.stem, path) != path:
            raise read_error(path, f"a second {suffix} of this name in one split", fix="a note's files are found by their name: rename one set")
    return found


def _read_note(text_path: Path, con_path: Path, rel_path: Path | None, folder: Path) -> Document:
    # A byte order mark is no token: it stays, and the first token holds it.
    text = read_text(text_path, skip_bom=False)
    lines = _token_spans(text)
    mismatches: list[str] = []
    mentions: dict[Place, Mention] = {}
    every: list[Mention] = []
    for number, match in _matches(con_path, _CON_LINE, 'c="text" LINE:TOKEN LINE:TOKEN||t="type"'):
        quoted, *numbers, kind = match.groups()
        place = _place(numbers)
        start, end = _span(con_path, number, lines, place)
        if one_line(text[start:end]).lower() != one_line(quoted).lower():
            mismatches.append(f"{con_path}:{number}")
        every.append(Mention(f"line{number}", kind, start, end))
        # One span may be annotated twice; relations do not say which they mean.
        mentions.setdefault(place, every[-1])
    relations = list(_relations(rel_path, mentions)) if rel_path else []
    return Document(
        doc_id=text_path.relative_to(folder).with_suffix("").as_posix(),
        text=text,
        mentions=tuple(sorted(every, key=mention_order)),
        relations=tuple(dict.fromkeys(relations)),
        source=str(text_path),
        mismatches=tuple(mismatches),
    )


def _token_spans(text: str) -> list[list[tuple[int, int]]]:
    """Where each token of each line stands. Two spaces in a row have an empty token between them, which counts."""
    spans, position = [], 0
    for line in text.split("\n"):
        row = []
        for token in line.split(" "):
            row.append((position, position + len(token.rstrip("\r"))))
            position += len(token) + 1
        spans.append(row)
    return spans


def _matches(path: Path, pattern: re.Pattern[str], form: str) -> Iterator[tuple[int, re.Match[str]]]:
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        match = pattern.fullmatch(line)
        if match is None:
            raise read_error(path, "not a line of this format", line=number, fix=f"write {form}")
        yield number, match


def _place(numbers: list[str]) -> Place:
    first_line, first_token, last_line, last_token = map(int, numbers)
    return first_line, first_token, last_line, last_token


def _span(path: Path, number: int, lines: list[list[tuple[int, int]]], place: Place) -> tuple[int, int]:
    """Characters from the start of the first token to the end of the last."""
    for line, token in (place[:2], place[2:]):
        if not 1 <= line <= len(lines):
            reason = f"line {line} of the note is named, which has {len(lines)}"
            raise read_error(path, reason, line=number, fix="lines count from 1; check that the files belong together")
        if token >= len(lines[line - 1]):
            reason = f"token {token} of the note's line {line} is named, which has {len(lines[line - 1])}"
            raise read_error(path, reason, line=number, fix="tokens count from 0 and are divided by single spaces")
    start, end = lines[place[0] - 1][place[1]][0], lines[place[2] - 1][place[3]][1]
    if start >= end:
        raise read_error(path, "a span is empty or ends before it begins", line=number, fix="the end token belongs to the span")
    return start, end


def _relations(path: Path, mentions: dict[Place, Mention]) -> Iterator[Relation]:
    for number, match in _matches(path, _REL_LINE, 'c="text" L:T L:T||r="type"||c="text" L:T L:T'):
        _, *head, kind, _, tail_1, tail_2, tail_3, tail_4 = match.groups()
        ends = [_place(head), _place([tail_1, tail_2, tail_3, tail_4])]
        if not all(end in mentions for end in ends):
            raise read_error(path, "a relation names a concept that the .con does not hold", line=number, fix="add it there or remove the line")
        yield Relation(kind, mentions[ends[0]].key, mentions[ends[1]].key)
