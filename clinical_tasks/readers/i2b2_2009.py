"""i2b2 2009 medications: one entry a line, each field with its words and where they stand in the note.

    m="aspirin" 12:3 12:3||do="81 mg" 12:4 12:5||mo="nm"||f="daily ... as needed" 12:6 12:6,13:0
    13:1||du="nm"||r="nm"||ln="list"

`nm` is a field that the note does not mention. Lines count from 1, tokens from 0, the end token belongs to the span; a
field in several parts lists their places after commas and puts ` ... ` between their words.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path

from clinical_tasks.readers.files import lines_of, name_in, read_text
from clinical_tasks.readers.i2b2 import Place, TokenSpans, place_of, span_of, ways_of_lines
from clinical_tasks.schema import Document, Mention, ReadError, Relation, TaskCard, mention_order, one_line, read_error

_SUFFIXES = (".entries", ".m")
_FIELDS = ("m", "do", "mo", "f", "du", "r")
# Event, temporal marker, certainty, list or narrative: words about an entry, which stand nowhere in the note.
_REMARKS = ("e", "t", "c", "ln")
_PLACES = r"\d{1,9}:\d{1,9} \d{1,9}:\d{1,9}"
# Quoted words may hold quotes and single bars: they end at the quote before the next field or the end of the line. What
# looks like the end of a field or the beginning of one inside them is damage.
_FIELD = re.compile(
    rf'([a-z]+)="((?:(?!\|[a-z]+="|\|\||" {_PLACES}).)*?)"(?: ({_PLACES}(?:, ?{_PLACES})*))?(?:\|\|(?=[a-z]+=")|\s*$)'
)
_NOT_MENTIONED = "nm"


@dataclass
class _Field:
    line: int
    name: str
    quoted: str
    places: list[Place]


@dataclass
class _Annotations:
    """The entries of a note: one list of fields for each line."""

    path: Path
    entries: list[list[_Field]] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)


def read_i2b2_2009(paths: list[Path], card: TaskCard, folder: Path) -> Iterator[Document]:
    """One document for each file of entries (`NAME.entries`, `NAME_gold.entries`, `NAME.i2b2.entries`, `NAME.m`).

    Its note is `NAME` or `NAME.txt` among the split's files. The release holds many notes that nobody annotated: they
    are counted, in the first document's `left_out`. Relations lead from a medication to each of its entry's other
    fields, under the field's name.
    """
    notes = _by_name(path for path in paths if path.suffix not in _SUFFIXES)
    annotated = _by_name(path for path in paths if path.suffix in _SUFFIXES)
    bare = len(notes.keys() - annotated.keys())
    for name, path in annotated.items():
        if name not in notes:
            raise read_error(
                path, "no note of this name among the split's files", fix="name the folder of the notes in splits too"
            )
        document = _read_note(notes[name], path, folder)
        if bare:
            document.left_out["notes without entries"] = bare
            bare = 0
        yield document


def _by_name(paths: Iterator[Path]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in paths:
        name = path.name
        if path.suffix in (*_SUFFIXES, ".txt"):
            name = path.stem.removesuffix(".i2b2").removesuffix("_gold")
        if found.setdefault(name, path) != path:
            raise read_error(
                path,
                "duplicate file for the same note in one split",
                fix="a note's files are found by their name: rename one set",
            )
    return found


def _read_note(text_path: Path, entries_path: Path, folder: Path) -> Document:
    text = read_text(text_path, skip_bom=False)
    annotations = _read_entries(entries_path)
    tokens = _tokens(text, annotations)
    mentions: dict[tuple[str, tuple[tuple[int, int], ...]], Mention] = {}
    relations: dict[Relation, None] = {}
    mismatches, left_out = [], annotations.left_out
    for entry in annotations.entries:
        keys: dict[str, str] = {}
        for item in entry:
            spans = [span_of(entries_path, number=item.line, lines=tokens, place=place) for place in item.places]
            if not _agrees(text, spans, item.quoted):
                mismatches.append(f"{entries_path}:{item.line}")
            fragments = tuple(sorted(set(spans)))
            begin, stop = fragments[0][0], max(end for _, end in fragments)
            mention = Mention(f"line{item.line}.{item.name}", item.name, begin, stop)
            if len(fragments) > 1:
                mention = replace(mention, fragments=fragments)
            first = mentions.setdefault((item.name, fragments), mention)
            # A drug with two dosages has two entries and is one mention.
            left_out["fields annotated before"] += first is not mention
            keys[item.name] = first.key
        for name, key in keys.items():
            if name != "m" and "m" in keys:
                relations[Relation(name, keys["m"], key)] = None
    named = text_path.with_suffix("") if text_path.suffix == ".txt" else text_path
    return Document(
        doc_id=name_in(named, folder),
        text=text,
        mentions=tuple(sorted(mentions.values(), key=mention_order)),
        relations=tuple(relations),
        source=str(text_path),
        mismatches=tuple(mismatches),
        left_out={name: count for name, count in left_out.items() if count},
    )


def _read_entries(path: Path) -> _Annotations:
    found = _Annotations(path)
    for number, line in enumerate(lines_of(path), start=1):
        if line.strip():
            found.entries.append(list(_read_entry(found, number, line.rstrip())))
    return found


def _read_entry(found: _Annotations, number: int, line: str) -> Iterator[_Field]:
    position, seen = 0, set()
    while position < len(line):
        match = _FIELD.match(line, position)
        if match is None or match[1] not in _FIELDS + _REMARKS or match[1] in seen:
            fix = (
                'write fields m, do, mo, f, du, r once each as m="text" LINE:TOKEN LINE:TOKEN or m="nm", divided by ||'
            )
            raise read_error(found.path, "not an entry of this format", line=number, fix=fix)
        name, quoted, places = match.groups()
        seen.add(name)
        if places and name in _FIELDS:
            every = [place_of(re.findall(r"\d+", part)) for part in places.split(",")]
            yield _Field(number, name, quoted, every)
        elif name in _REMARKS:
            found.left_out[f"{name} fields"] += 1
        elif quoted != _NOT_MENTIONED:
            found.left_out["fields without a place"] += 1
        position = match.end()


def _tokens(text: str, annotations: _Annotations) -> TokenSpans:
    """Tokens between single spaces or between runs of whitespace, whichever agrees with more of the quoted words.

    Lines may end in lone "\\r" too, where a note has such.
    """
    first, *others = ways_of_lines(text)
    ways = [first, _whitespace_tokens(text), *others]
    items = list(chain.from_iterable(annotations.entries))

    def agreeing(way: TokenSpans) -> int:
        return sum(_fits(annotations.path, text, way, item) for item in items)

    return max(ways, key=agreeing)


def _fits(path: Path, text: str, tokens: TokenSpans, item: _Field) -> bool:
    try:
        return _agrees(
            text, [span_of(path, number=item.line, lines=tokens, place=place) for place in item.places], item.quoted
        )
    except ReadError:
        return False


def _whitespace_tokens(text: str) -> TokenSpans:
    lines: TokenSpans = []
    position = 0
    for line in text.split("\n"):
        words = re.finditer(r"\S+", line)
        lines.append([(position + word.start(), position + word.end()) for word in words])
        position += len(line) + 1
    return lines


def _agrees(text: str, spans: list[tuple[int, int]], quoted: str) -> bool:
    return _words(" ".join(text[start:end] for start, end in spans)) == _words(quoted)


def _words(text: str) -> str:
    return one_line(text.replace("...", " ")).lower()
