"""i2b2 2012 temporal relations: an XML file with the note in TEXT and EVENT, TIMEX3, SECTIME and TLINK in TAGS.

The release counts characters from 1, ends exclusive, in the note without the line break after `<![CDATA[`: which is
from 0 with it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from clinical_tasks.readers.files import name_in, read_text
from clinical_tasks.readers.markup import Element, attribute, count_others, root_with_text, whole_number
from clinical_tasks.schema import Document, Mention, Relation, TaskCard, mention_order, one_line, read_error
from strict_yaml import counted

_MENTIONS = ("EVENT", "TIMEX3")


class _Span(NamedTuple):
    element: Element
    start: int
    end: int
    quoted: str


def read_i2b2_2012(paths: list[Path], card: TaskCard, folder: Path) -> Iterator[Document]:
    """One document for each `.xml`; its id is the path inside the task's folder without the suffix.

    EVENT and TIMEX3 are mentions, their `type` attribute is the type. TLINK are relations.
    """
    for path in paths:
        yield _read_note(path, folder)


def _read_note(path: Path, folder: Path) -> Document:
    root = root_with_text(path, read_text(path), "</TEXT>")
    note, tags = root.first("TEXT"), root.first("TAGS")
    if note is None or tags is None or note.children:
        raise read_error(
            path, "no TEXT of the note alone, or no TAGS", line=root.line, fix="compare the file with the release"
        )
    left_out: Counter[str] = Counter()
    count_others(tags, (*_MENTIONS, "TLINK"), left_out)
    spans = list(_spans(path, tags, left_out))
    text, first, last = _convention(note.text, spans)
    mentions, mismatches = {}, []
    for span in spans:
        start, end = span.start + first, span.end + last
        if not 0 <= start < end <= len(text):
            reason = f"span {span.start}-{span.end} is empty or beyond the note's {counted(len(text), 'character')}"
            raise read_error(path, reason, line=span.element.line, fix="compare the file with the release")
        if one_line(text[start:end]) != one_line(span.quoted):
            mismatches.append(f"{path}:{span.element.line}")
        key = attribute(path, span.element, "id")
        if key in mentions:
            raise read_error(path, "duplicate id", line=span.element.line, fix="give each tag its own id")
        mentions[key] = Mention(key, attribute(path, span.element, "type"), start, end)
    relations = _relations(path, tags, mentions, left_out)
    text, dropped = _without_frame(text, mentions)
    moved = [Mention(m.key, m.type, m.start - dropped, m.end - dropped) for m in mentions.values()]
    return Document(
        doc_id=name_in(path.with_suffix(""), folder),
        text=text,
        mentions=tuple(sorted(moved, key=mention_order)),
        relations=relations,
        source=str(path),
        mismatches=tuple(mismatches),
        left_out=dict(left_out),
    )


def _spans(path: Path, tags: Element, left_out: Counter[str]) -> Iterator[_Span]:
    for element in tags.children:
        if element.tag in _MENTIONS and element.attributes.get("start") == element.attributes.get("end") == "-1":
            # How the annotation tool writes a tag that stands for no words.
            left_out[f"{element.tag} elements without a place"] += 1
        elif element.tag in _MENTIONS:
            start = whole_number(path, element.line, name="start", text=attribute(path, element, "start"))
            end = whole_number(path, element.line, name="end", text=attribute(path, element, "end"))
            yield _Span(element, start, end, attribute(path, element, "text"))


def _convention(text: str, spans: list[_Span]) -> tuple[str, int, int]:
    """The text, and what to add to starts and ends: how the file counts, as most of its quoted texts agree; by default
    from 1.

    The line ends may have been CR LF for whoever counted, or already LF, as an XML parser shows them.
    """
    from_0, from_1, from_1_inclusive = (0, 0), (-1, -1), (-1, 0)
    shifts = [from_1, from_0, from_1_inclusive]
    if text[:1] in ("\n", "\r"):
        shifts = [from_0, from_1, from_1_inclusive]
    ways = [(text.replace("\r\n", "\n"), first, last) for first, last in shifts]
    if "\r\n" in text:
        # From 1 after a line break of two characters.
        stored = shifts
        if text.startswith("\r\n"):
            stored = [(1, 1), *shifts]
        ways += [(text, first, last) for first, last in stored]
    return max(ways, key=lambda way: sum(_agrees(way, span) for span in spans))


def _agrees(way: tuple[str, int, int], span: _Span) -> bool:
    text, first, last = way
    start, end = span.start + first, span.end + last
    return 0 <= start < end <= len(text) and _blank(text[start:end]) == _blank(span.quoted)


def _blank(text: str) -> str:
    """Every whitespace character as a space, CR LF as one, none dropped.

    The parser has made spaces of those in attributes.
    """
    return re.sub(r"\r[\n ]|\s", " ", text)


def _relations(path: Path, tags: Element, mentions: dict[str, Mention], left_out: Counter[str]) -> tuple[Relation, ...]:
    relations: dict[Relation, None] = {}
    for element in tags.find("TLINK"):
        kind, head, tail = (attribute(path, element, name) for name in ("type", "fromID", "toID"))
        if head not in mentions or tail not in mentions:
            # Links to the times of admission and discharge, which are SECTIME elements.
            left_out["TLINK elements with an end that is not a mention"] += 1
        elif (relation := Relation(kind, head, tail)) in relations:
            left_out["TLINK elements repeated"] += 1
        else:
            relations[relation] = None
    return tuple(relations)


def _without_frame(text: str, mentions: dict[str, Mention]) -> tuple[str, int]:
    """The note without the line break that follows `<![CDATA[` and the one before `]]>`, and how many characters
    went in front.
    """
    begin = re.match(r"\r?\n|", text)
    end = re.search(r"(\r?\n|)\Z", text)
    first = min((mention.start for mention in mentions.values()), default=len(text))
    last = max((mention.end for mention in mentions.values()), default=0)
    front = begin.end() if begin and begin.end() <= first else 0
    back = end.start() if end and last <= end.start() else len(text)
    return text[front : max(front, back)], front
