"""DDI 2013: XML with sentences, their entities, and every pair of those, interacting or not.

    <sentence id="D.s0" text="..."><entity id="D.s0.e0" charOffset="0-5;8-10" type="drug" text="..."/>
    <pair id="D.s0.p0" e1="D.s0.e0" e2="D.s0.e1" ddi="true" type="effect"/></sentence>

`charOffset` counts from 0 in the sentence's text, and its ends are inclusive.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from clinical_tasks.readers.files import read_text
from clinical_tasks.readers.markup import Element, attribute, by_quoted_words, count_others, whole_number
from clinical_tasks.schema import Document, Mention, Relation, TaskCard, mention_order, one_line, read_error


def read_ddi(paths: list[Path], card: TaskCard, folder: Path) -> Iterator[Document]:
    """One document for each `<document>`: its sentences, one a line. Pairs that interact are relations, the others
    are counted.
    """
    for path in paths:
        yield from by_quoted_words(path, text=read_text(path), tag="document", build=_document)


def _document(path: Path, element: Element) -> Document:
    text = ""
    mentions: dict[str, Mention] = {}
    relations: dict[Relation, None] = {}
    mismatches: list[str] = []
    left_out: Counter[str] = Counter()
    count_others(element, ("sentence",), left_out)
    for number, sentence in enumerate(element.find("sentence")):
        if number:
            text += "\n"
        base, words = len(text), attribute(path, sentence, "text")
        count_others(sentence, ("entity", "pair"), left_out)
        text += words
        for entity in sentence.find("entity"):
            mention = _mention(path, entity, words, base)
            if mention.key in mentions:
                raise read_error(path, "duplicate id", line=entity.line, fix="give each entity its own id")
            mentions[mention.key] = mention
            spans = mention.fragments or ((mention.start, mention.end),)
            pieces = [text[start:end] for start, end in spans]
            if not _agrees(pieces, attribute(path, entity, "text")):
                mismatches.append(f"{path}:{entity.line}")
    for sentence in element.find("sentence"):
        for pair in sentence.find("pair"):
            _add_pair(path, pair, mentions, relations, left_out)
    return Document(
        doc_id=attribute(path, element, "id"),
        text=text,
        mentions=tuple(sorted(mentions.values(), key=mention_order)),
        relations=tuple(relations),
        source=f"{path}:{element.line}",
        mismatches=tuple(mismatches),
        left_out=dict(left_out),
    )


def _agrees(pieces: list[str], quoted: str) -> bool:
    """The same words, and no space at an end that is not quoted: with exclusive ends every entity before a space
    would seem to agree.
    """
    if one_line(" ".join(pieces)) != one_line(quoted):
        return False
    return quoted != quoted.strip() or all(piece == piece.strip() for piece in pieces)


def _mention(path: Path, entity: Element, words: str, base: int) -> Mention:
    spans = []
    for part in attribute(path, entity, "charOffset").split(";"):
        first, dash, last = part.partition("-")
        start = whole_number(path, entity.line, name="charOffset", text=first)
        end = whole_number(path, entity.line, name="charOffset", text=last if dash else first)
        if not start <= end < len(words):
            reason = f"characters {start}-{end} are empty or beyond the sentence's {len(words)}"
            raise read_error(
                path, reason, line=entity.line, fix="charOffset counts from 0 in the sentence, ends inclusive"
            )
        spans.append((base + start, base + end + 1))
    spans.sort()
    key, kind = attribute(path, entity, "id"), attribute(path, entity, "type")
    fragments = tuple(spans) if len(spans) > 1 else ()
    return Mention(key, kind, spans[0][0], max(end for _, end in spans), fragments)


def _add_pair(
    path: Path, pair: Element, mentions: dict[str, Mention], relations: dict[Relation, None], left_out: Counter[str]
) -> None:
    ends = [attribute(path, pair, name) for name in ("e1", "e2")]
    if not all(end in mentions for end in ends):
        raise read_error(
            path,
            "a pair names an entity that the document does not have",
            line=pair.line,
            fix="add it or remove the pair",
        )
    interacts = attribute(path, pair, "ddi")
    if interacts not in ("true", "false"):
        raise read_error(path, "ddi must be true or false", line=pair.line, fix="compare the file with the release")
    relation = Relation(pair.attributes.get("type", ""), *ends)
    if interacts == "false":
        left_out["pairs that do not interact"] += 1
    elif not relation.type:
        left_out["pairs that interact but have no type"] += 1
    elif relation in relations:
        left_out["pairs repeated"] += 1
    else:
        relations[relation] = None
