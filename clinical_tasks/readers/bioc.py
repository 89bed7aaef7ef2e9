"""BioC XML: documents of passages; annotations with locations that count from the document's start; relations.
https://bioc.sourceforge.net
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from clinical_tasks.readers.files import read_text
from clinical_tasks.readers.markup import Element, attribute, by_quoted_words, count_others, whole_number
from clinical_tasks.readers.pubtator import concept_ids, strip_mesh
from clinical_tasks.schema import Document, Mention, Relation, TaskCard, mention_order, one_line, read_error

# Between two passages the format leaves a gap of a character and does not say which: the PubTator edition of BC5CDR has
# a line break.
_JOINT = "\n"
_IDENTIFIERS = ("MESH", "identifier")


@dataclass
class _Draft:
    """A document while its passages are being put together."""

    path: Path
    text: str = ""
    mentions: dict[str, Mention] = field(default_factory=dict)
    # (ids, start, end, words) of the single mentions that a composite one is made of
    singles: list[tuple[tuple[str, ...], int, int, str]] = field(default_factory=list)
    mismatches: list[str] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)


def read_bioc(paths: list[Path], card: TaskCard, folder: Path) -> Iterator[Document]:
    """The documents of all files. BC5CDR's relations are between concept identifiers; relations of nodes are
    between mentions.
    """
    for path in paths:
        yield from by_quoted_words(path, text=read_text(path), tag="document", build=_document)


def _document(path: Path, element: Element) -> Document:
    draft = _Draft(path)
    blocks: list[Element] = []
    for passage in element.find("passage"):
        blocks += [*passage.find("sentence")] or [passage]
    for number, block in enumerate(blocks):
        if number:
            draft.text += _JOINT
        _add_block(draft, block)
    holders = [element, *element.find("passage"), *blocks]
    # A passage without sentences is its own block.
    unique = {id(holder): holder for holder in holders}.values()
    for holder in unique:
        known = ("id", "offset", "infon", "text", "passage", "sentence", "relation")
        count_others(holder, (*known, "annotation") if holder in blocks else known, draft.left_out)
    relations: dict[Relation, None] = {}
    for holder in unique:
        for item in holder.find("relation"):
            relation = _relation(draft, item)
            draft.left_out["relations repeated"] += relation in relations
            relations[relation] = None
    mentions = [_with_parts(draft, mention) for mention in draft.mentions.values()]
    return Document(
        doc_id=_text(path, element, "id"),
        text=draft.text,
        mentions=tuple(sorted(mentions, key=mention_order)),
        relations=tuple(relations),
        source=f"{path}:{element.line}",
        mismatches=tuple(draft.mismatches),
        left_out={name: count for name, count in draft.left_out.items() if count},
    )


def _text(path: Path, element: Element, tag: str) -> str:
    child = element.first(tag)
    if child is None:
        raise read_error(
            path, f"<{element.tag}> has no <{tag}>", line=element.line, fix="compare the file with the release"
        )
    return child.text


def _infons(path: Path, element: Element) -> dict[str, str]:
    return {attribute(path, infon, "key"): infon.text for infon in element.find("infon")}


def _add_block(draft: _Draft, block: Element) -> None:
    # Offsets are those of the block, so that whatever the gap before it is, its annotations stay with their words.
    path, base = draft.path, len(draft.text)
    begin = whole_number(path, block.line, name="offset", text=_text(path, block, "offset"))
    words = block.first("text")
    if words:
        draft.text += words.text
    for item in block.find("annotation"):
        infons = _infons(path, item)
        spans = sorted(_location(draft, place, begin, base) for place in item.find("location"))
        if not spans:
            raise read_error(
                path, "an annotation without a location", line=item.line, fix="compare the file with the release"
            )
        start, end = spans[0][0], max(stop for _, stop in spans)
        quoted = one_line(_text(path, item, "text"))
        fragments = " ".join(draft.text[one:other] for one, other in spans)
        if quoted not in (one_line(fragments), one_line(draft.text[start:end])):
            draft.mismatches.append(f"{path}:{item.line}")
        identifiers = [infons[name] for name in _IDENTIFIERS if name in infons]
        ids = concept_ids(identifiers[0]) if identifiers else ()
        if infons.get("CompositeRole") == "IndividualMention":
            draft.left_out["single mentions of a composite one"] += 1
            draft.singles.append((ids, start, end, quoted))
            continue
        key = attribute(path, item, "id")
        if key in draft.mentions:
            raise read_error(path, "duplicate id", line=item.line, fix="give each annotation its own id")
        if "type" not in infons:
            raise read_error(path, "an annotation without a type", line=item.line, fix='add <infon key="type">')
        draft.mentions[key] = Mention(key, infons["type"], start, end, tuple(spans) if len(spans) > 1 else (), ids)


def _location(draft: _Draft, place: Element, begin: int, base: int) -> tuple[int, int]:
    offset = whole_number(draft.path, place.line, name="offset", text=attribute(draft.path, place, "offset"))
    length = whole_number(draft.path, place.line, name="length", text=attribute(draft.path, place, "length"))
    start = offset - begin + base
    if not base <= start < start + length <= len(draft.text):
        reason = f"a location of {length} characters at {offset} is empty or outside its passage"
        raise read_error(
            draft.path, reason, line=place.line, fix="offsets count characters from the start of the document"
        )
    return start, start + length


def _with_parts(draft: _Draft, mention: Mention) -> Mention:
    """A composite mention with the words of each of its concepts, where there is one single mention for each."""
    words = {}
    for ids, start, end, text in draft.singles:
        if mention.start <= start and end <= mention.end:
            words[ids] = text
    parts = tuple(words[(identifier,)] for identifier in mention.ids if (identifier,) in words)
    if len(mention.ids) < 2 or len(parts) < len(mention.ids):
        parts = ()
    return replace(mention, parts=parts)


def _relation(draft: _Draft, item: Element) -> Relation:
    infons = _infons(draft.path, item)
    kind = infons.pop("relation", None) or infons.pop("type", None)
    nodes = [attribute(draft.path, node, "refid") for node in item.find("node")]
    ends = nodes or [strip_mesh(value) for value in infons.values()]
    if not kind or len(ends) != 2:
        fix = "it has a type and two nodes, or two infons with concept identifiers"
        raise read_error(draft.path, "a relation without a type or without two ends", line=item.line, fix=fix)
    if nodes and not all(node in draft.mentions for node in nodes):
        raise read_error(
            draft.path,
            "a relation names an annotation that is not in the document",
            line=item.line,
            fix="add it or remove the relation",
        )
    return Relation(kind, ends[0], ends[1])
