"""i2b2/VA 2010: a `.txt` with the note, concepts in a `.con`, assertions in an `.ast`, relations in a `.rel`, all of
one name.

    c="chest pain" 13:2 13:3||t="problem"
    c="chest pain" 13:2 13:3||t="problem"||a="present"
    c="aspirin" 13:6 13:6||r="TrAP"||c="chest pain" 13:2 13:3

Lines count from 1 and end in "\\n", or in a lone "\\r" too where more quoted texts agree so. Tokens count from 0 and
are what stands between single spaces; the end token belongs to the span, which may run over lines. The quoted text is
lower-cased.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from clinical_tasks.readers.files import lines_of, name_in, read_text
from clinical_tasks.schema import Document, Mention, ReadError, Relation, TaskCard, mention_order, one_line, read_error
from strict_yaml import counted

# Quoted texts may hold quotes and bars themselves; positions and labels cannot. A text that seems to go on after a
# position is two lines that have run together, as lines that end in "\r" alone do.
_PLACE = r"\d{1,9}:\d{1,9} \d{1,9}:\d{1,9}"
_CONCEPT = rf'c="((?:(?!" {_PLACE}\|\|).)*)" (\d{{1,9}}):(\d{{1,9}}) (\d{{1,9}}):(\d{{1,9}})'
_CON_LINE = re.compile(_CONCEPT + r'\|\|t="([^"|]+)"\s*')
_AST_LINE = re.compile(_CONCEPT + r'\|\|t="([^"|]+)"\|\|a="([^"|]+)"\s*')
_REL_LINE = re.compile(_CONCEPT + r'\|\|r="([^"|]+)"\|\|' + _CONCEPT + r"\s*")

# A line end to whoever counted lines with Java's or Python's readers; a character to others.
_LONE_RETURN = re.compile(r"\r(?!\n)")

# (first line, first token, last line, last token)
Place = tuple[int, int, int, int]
# For each line its tokens, for each token where it begins and ends.
TokenSpans = list[list[tuple[int, int]]]


def read_i2b2(paths: list[Path], card: TaskCard, folder: Path) -> Iterator[Document]:
    """One document for each `.txt`; its id is the path inside the task's folder without the suffix.

    The release keeps notes, concepts and relations in folders of their own, so a split names them all; files belong
    together by their names. Each note needs a `.con` (empty if it has no concepts), and in a relation task a `.rel`.
    With the reader option `types: assertion` it needs an `.ast`, and the type of a concept that has an assertion is
    that assertion.
    """
    notes = _by_name(paths, ".txt")
    others = {suffix: _by_name(paths, suffix) for suffix in (".con", ".ast", ".rel")}
    asserted = card.reader_options.get("types") == "assertion"
    needed = {".con": True, ".ast": asserted, ".rel": card.type == "re"}
    for found in others.values():
        for name, path in found.items():
            if name not in notes:
                fix = "name the notes of the split in splits too"
                raise read_error(path, "no .txt of this name among the split's files", fix=fix)
    for name, path in notes.items():
        for suffix, found in others.items():
            if name not in found and needed[suffix]:
                fix = (
                    f"put it into one of the split's folders and name those files in splits, as in 'train/*/*{suffix}'"
                )
                raise read_error(path, f"no {suffix} of this name among the split's files", fix=fix)
        files = {suffix: found[name] for suffix, found in others.items() if name in found}
        yield _read_note(path, files, folder, asserted)


def _by_name(paths: list[Path], suffix: str) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in paths:
        if path.suffix == suffix and found.setdefault(path.stem, path) != path:
            raise read_error(
                path,
                f"duplicate {suffix} of this name in one split",
                fix="a note's files are found by their name: rename one set",
            )
    return found


def _read_note(text_path: Path, files: dict[str, Path], folder: Path, asserted: bool) -> Document:
    # A byte order mark is no token: it stays, and the first token holds it.
    text = read_text(text_path, skip_bom=False)
    con_path = files[".con"]
    concepts = list(_matches(con_path, _CON_LINE, 'c="text" LINE:TOKEN LINE:TOKEN||t="type"'))

    def agreeing(way: TokenSpans) -> int:
        return sum(_fits(con_path, text, way, concept) for concept in concepts)

    lines = max(ways_of_lines(text), key=agreeing)
    assertions = dict(_assertions(files[".ast"])) if ".ast" in files else {}
    mismatches: list[str] = []
    mentions: dict[Place, Mention] = {}
    every: list[Mention] = []
    for number, match in concepts:
        quoted, *numbers, kind = match.groups()
        place = place_of(numbers)
        start, end = span_of(con_path, number, lines, place)
        if not _agrees(text[start:end], quoted):
            mismatches.append(f"{con_path}:{number}")
        if (place, kind) in assertions and asserted:
            kind = assertions[place, kind][1]
        every.append(Mention(f"line{number}", kind, start, end))
        # One span may be annotated twice; relations do not say which they mean.
        mentions.setdefault(place, every[-1])
    for (place, _), (number, _) in assertions.items():
        if place not in mentions:
            fix = "add it there or remove the line"
            raise read_error(
                files[".ast"], "an assertion names a concept that the .con does not hold", line=number, fix=fix
            )
    relations = list(_relations(files[".rel"], mentions)) if ".rel" in files else []
    unique = tuple(dict.fromkeys(relations))
    left_out = {"relations repeated": len(relations) - len(unique), "assertions": 0 if asserted else len(assertions)}
    return Document(
        doc_id=name_in(text_path.with_suffix(""), folder),
        text=text,
        mentions=tuple(sorted(every, key=mention_order)),
        relations=unique,
        source=str(text_path),
        mismatches=tuple(mismatches),
        left_out={name: count for name, count in left_out.items() if count},
    )


def ways_of_lines(text: str) -> list[TokenSpans]:
    """Tokens of lines that end in "\\n" only. Where the note has lone "\\r", a second way ends lines there too."""
    ways = [token_spans(text)]
    lone = _LONE_RETURN.sub("\n", text)
    if lone != text:
        ways.append(token_spans(lone))
    return ways


def _fits(path: Path, text: str, lines: TokenSpans, concept: tuple[int, re.Match[str]]) -> bool:
    number, match = concept
    quoted, *numbers, _ = match.groups()
    try:
        start, end = span_of(path, number, lines, place=place_of(numbers))
    except ReadError:
        return False
    return _agrees(text[start:end], quoted)


def _agrees(words: str, quoted: str) -> bool:
    return one_line(words).lower() == one_line(quoted).lower()


def token_spans(text: str) -> TokenSpans:
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
    for number, line in enumerate(lines_of(path), start=1):
        if not line.strip():
            continue
        match = pattern.fullmatch(line)
        if match is None:
            raise read_error(path, "not a line of this format", line=number, fix=f"write {form}")
        yield number, match


def place_of(numbers: list[str]) -> Place:
    """First line, first token, last line, last token, of their digits."""
    first_line, first_token, last_line, last_token = map(int, numbers)
    return first_line, first_token, last_line, last_token


def span_of(path: Path, number: int, lines: TokenSpans, place: Place) -> tuple[int, int]:
    """Characters from the start of the first token to the end of the last."""
    for line, token in (place[:2], place[2:]):
        if not 1 <= line <= len(lines):
            reason = f"line {line} is named, but the note has {counted(len(lines), 'line')}"
            raise read_error(path, reason, line=number, fix="lines count from 1; check that the files belong together")
        if token >= len(lines[line - 1]):
            there = counted(len(lines[line - 1]), "token")
            reason = f"token {token} of line {line} is named, but that line has {there}"
            raise read_error(path, reason, line=number, fix="tokens count from 0 and are divided by single spaces")
    start, end = lines[place[0] - 1][place[1]][0], lines[place[2] - 1][place[3]][1]
    if start >= end:
        raise read_error(
            path, "a span is empty or ends before it begins", line=number, fix="the end token belongs to the span"
        )
    return start, end


def _assertions(path: Path) -> Iterator[tuple[tuple[Place, str], tuple[int, str]]]:
    """By place and type of the concept: line and assertion."""
    seen: dict[tuple[Place, str], int] = {}
    for number, match in _matches(path, _AST_LINE, 'c="text" L:T L:T||t="type"||a="assertion"'):
        _, *numbers, kind, assertion = match.groups()
        key = (place_of(numbers), kind)
        if key in seen:
            raise read_error(
                path, f"duplicate assertion of the concept of line {seen[key]}", line=number, fix="keep one of them"
            )
        seen[key] = number
        yield key, (number, assertion)


def _relations(path: Path, mentions: dict[Place, Mention]) -> Iterator[Relation]:
    for number, match in _matches(path, _REL_LINE, 'c="text" L:T L:T||r="type"||c="text" L:T L:T'):
        _, *head, kind, _, tail_1, tail_2, tail_3, tail_4 = match.groups()
        ends = [place_of(head), place_of([tail_1, tail_2, tail_3, tail_4])]
        if not all(end in mentions for end in ends):
            raise read_error(
                path,
                "a relation names a concept that the .con does not hold",
                line=number,
                fix="add it there or remove the line",
            )
        yield Relation(kind, mentions[ends[0]].key, mentions[ends[1]].key)
