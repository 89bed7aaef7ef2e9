"""XML without its dangers: a released file to plain elements with their line numbers, nothing fetched, nothing
expanded.

Entity declarations are refused (they can grow a small file without bound, or name other files), and so is a reference
to an entity that is not one of XML's own five. A DOCTYPE that only names a DTD is passed over.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from xml.parsers import expat

from clinical_tasks.schema import Document, ReadError, read_error

# The parser takes text in slices, so that a large file is never one tree.
_SLICE = 1 << 16
# XML has no control characters, but notes do. Each stands as a private-use character while the parser has the text. So
# does a CR of the text or of an attribute's value, which the parser would make part of a line end or a space: offsets
# may count it (`by_quoted_words`).
_HIDDEN = {code: 0x10F000 + code for code in range(32) if code not in (9, 10)}
_SHOWN = {hidden: code for code, hidden in _HIDDEN.items()}
_MARKUP = {code: hidden for code, hidden in _HIDDEN.items() if code != 13}
# Pieces of a file in which a CR means nothing: comments, processing instructions, DOCTYPE, tags, and whitespace between
# these. What is not closed reaches to the end, so that a damaged file takes no longer; the parser refuses it.
_BETWEEN = r"(?:\A|(?<=>)(?<!\]\]>))\s++(?=<(?!!\[CDATA\[)|\Z)"
_MEANS_NOTHING = rf"<!--.*?(?:-->|\Z)|<\?.*?(?:\?>|\Z)|<!DOCTYPE[^\[>]*+(?:\[.*?(?:\]\s*+|\Z))?>?|{_BETWEEN}"
_TAG = r"""</?[A-Za-z_:](?:[^<>"']++|"[^"]*+(?:"|\Z)|'[^']*+(?:'|\Z))*+>?"""
_CDATA = r"<!\[CDATA\[.*?(?:\]\]>|\Z)"
_PIECE = re.compile(rf"{_CDATA}|(?P<markup>{_MEANS_NOTHING})|(?P<tag>{_TAG})|[^<]++|<", re.DOTALL)
_VALUE = re.compile(r""""[^"]*+"|'[^']*+'""")
_PRIVATE = re.compile("[\U0010f000-\U0010f01f]")


@dataclass
class Element:
    """A tag with its attributes, the line of its start, its children, and the text directly inside it."""

    tag: str
    attributes: dict[str, str]
    line: int
    children: list[Element] = field(default_factory=list)
    text: str = ""

    def find(self, *tags: str) -> Iterator[Element]:
        """The children with one of these tags, in file order."""
        return (child for child in self.children if child.tag in tags)

    def first(self, tag: str) -> Element | None:
        """The first child with this tag."""
        return next(self.find(tag), None)


def attribute(path: Path, element: Element, name: str) -> str:
    """An attribute that has to be there."""
    if name not in element.attributes:
        raise read_error(
            path, f"<{element.tag}> has no attribute {name}", line=element.line, fix="compare the file with the release"
        )
    return element.attributes[name]


def whole_number(path: Path, line: int, name: str, text: str) -> int:
    """A count of characters, tokens or lines as written: ASCII digits, at most nine."""
    if not re.fullmatch(r"[0-9]{1,9}", text.strip()):
        raise read_error(path, f"{name} is not a whole number", line=line, fix="compare the file with the release")
    return int(text)


def elements(path: Path, text: str, tag: str = "") -> Iterator[Element]:
    """Every outermost element with this tag (by default the root), whole, as the parser completes it.

    Raises `ReadError` for what is not well-formed.
    """
    if _PRIVATE.search(text):
        raise read_error(
            path, "holds characters of the private area U+10F000", fix="replace them; they have no meaning of their own"
        )
    builder = _Builder(path, tag)
    text = _hidden(text)
    for begin in range(0, max(len(text), 1), _SLICE):
        builder.feed(text[begin : begin + _SLICE], last=begin + _SLICE >= len(text))
        yield from builder.done
        builder.done.clear()


def _hidden(text: str) -> str:
    if "\r" not in text:
        return text.translate(_HIDDEN)
    return _PIECE.sub(_hide_returns, text).translate(_MARKUP)


def _hide_returns(piece: re.Match[str]) -> str:
    """A CR stays where the parser takes it for whitespace, as a line end that is no part of any text."""
    if piece["markup"] is not None:
        return piece[0]
    if piece["tag"] is not None:
        return _VALUE.sub(lambda value: value[0].replace("\r", chr(_HIDDEN[13])), piece[0])
    return piece[0].replace("\r", chr(_HIDDEN[13]))


def by_quoted_words(path: Path, text: str, tag: str, build: Callable[[Path, Element], Document]) -> Iterator[Document]:
    """A document for each element with this tag. Where lines end in CR LF, its quoted words say what its offsets count.

    XML shows CR LF as LF (XML 1.0, 2.11), and so do the tools that read it: one character. Others counted the
    characters of the file. Of the two documents the one with fewer mismatches is returned, in doubt the first.

    Raises:
        ReadError: the file cannot be read, or a document can be made in neither way; then the reason of the first.
    """
    shown = elements(path, text.replace("\r\n", "\n"), tag)
    if "\r\n" not in text:
        for element in shown:
            yield build(path, element)
        return
    for element, as_stored in zip(shown, elements(path, text, tag), strict=True):
        yield _better(path, [element, as_stored], build)


def _better(path: Path, ways: list[Element], build: Callable[[Path, Element], Document]) -> Document:
    documents, errors = [], []
    for element in ways:
        try:
            documents.append(build(path, element))
        except ReadError as error:
            errors.append(error)
    if not documents:
        raise errors[0]
    return min(documents, key=lambda document: len(document.mismatches))


class _Builder:
    """Collects the elements of one tag from the parser's calls; whatever lies outside them is not kept."""

    def __init__(self, path: Path, tag: str) -> None:
        self.done: list[Element] = []
        self._path, self._tag = path, tag
        self._open: list[tuple[Element, list[str]]] = []
        self._parser = expat.ParserCreate()
        self._parser.buffer_text = True
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.CharacterDataHandler = self._characters
        self._parser.EntityDeclHandler = lambda *_: self._refuse("an entity declaration")
        self._parser.SkippedEntityHandler = lambda *_: self._refuse("a reference to an undeclared entity")

    def feed(self, text: str, last: bool) -> None:
        try:
            self._parser.Parse(text, last)
        except expat.ExpatError as error:
            # The parser's reasons are fixed phrases. `from None`: nothing else of it may be shown.
            raise read_error(
                self._path,
                f"not well-formed XML ({expat.ErrorString(error.code)})",
                line=error.lineno,
                fix="compare the file with the release",
            ) from None

    def _refuse(self, what: str) -> None:
        raise read_error(
            self._path, what, line=self._parser.CurrentLineNumber, fix="write the text itself; nothing is expanded here"
        )

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        if self._open or self._tag in (tag, ""):
            shown = {name: value.translate(_SHOWN) for name, value in attributes.items()}
            element = Element(tag, shown, self._parser.CurrentLineNumber)
            if self._open:
                self._open[-1][0].children.append(element)
            self._open.append((element, []))

    def _end(self, tag: str) -> None:
        if self._open:
            element, pieces = self._open.pop()
            element.text = "".join(pieces).translate(_SHOWN)
            if not self._open:
                self.done.append(element)

    def _characters(self, text: str) -> None:
        if self._open:
            self._open[-1][1].append(text)


# An attribute's value reaches to the quote before the next attribute or the end of the tag.
_TAG_LINE = re.compile(r"\s*<[A-Za-z]\w*\s[^\n]*>\s*")
_ATTRIBUTE = re.compile(r'(\s[A-Za-z]\w*=)"(.*?)"(?=\s+[A-Za-z]\w*="|\s*/?>)')
_BARE = (
    (re.compile(r"&(?!(?:amp|lt|gt|quot|apos|#[0-9]+|#x[0-9A-Fa-f]+);)"), "&amp;"),
    (re.compile("<"), "&lt;"),
    (re.compile('"'), "&quot;"),
)


def root_with_text(path: Path, text: str, end_of_text: str) -> Element:
    """The root of a file with one document; where its tool did not escape attributes, as some files of a release, they
    are escaped first.

    `end_of_text` is the tag after which there are no more words of the note, only tags on lines of their own.
    """
    try:
        (root,) = elements(path, text)
    except ReadError as error:
        note, mark, tags = text.rpartition(end_of_text)
        try:
            (root,) = elements(path, note + mark + _escaped(tags))
        except ReadError:
            # Of the two reasons the one about the file as it is.
            raise error from None
    return root


def count_others(element: Element, known: Collection[str], left_out: Counter[str]) -> None:
    """Count the children whose tags a reader does not know."""
    for child in element.children:
        if child.tag not in known:
            left_out[f"{child.tag} elements"] += 1


def _escaped(tags: str) -> str:
    def escape(match: re.Match[str]) -> str:
        value = match[2]
        for pattern, replacement in _BARE:
            value = pattern.sub(replacement, value)
        return f'{match[1]}"{value}"'

    lines = tags.split("\n")
    for number, line in enumerate(lines):
        if _TAG_LINE.fullmatch(line):
            lines[number] = _ATTRIBUTE.sub(escape, line)
    return "\n".join(lines)
