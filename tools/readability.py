"""How readable the documents are: length of sentences, length of lines, and the project's list of terms.

python -m tools.readability            # README.md, CONTRIBUTING.md and docs/
python -m tools.readability FILE ...   # these files alone

It prints a table, the longest sentences and every limit that is broken. Exit code 1 where one is broken:

- sentences have more than 20 words on average, in a document or in all of them
- a line, or a cell of a table, has more than 400 characters
- a document has a phrase that tools/terms.toml lists

Code blocks, tables, headings and addresses are not sentences. A piece of code in a sentence counts as one word.
"""

import argparse
import re
import sys
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

TERMS = Path(__file__).with_name("terms.toml")
WORDS_PER_SENTENCE = 20
LINE_LENGTH = 400
WORST = 10

FENCE = re.compile(r"\s*(?:>\s*)?(`{3,}|~{3,})")
HEADING = re.compile(r"\s*#{1,6} ")
TABLE_ROW = re.compile(r"\s*\|")
RULE = re.compile(r"\s*([-=*_])(\s*\1){2,}\s*$")
LIST_ITEM = re.compile(r"\s*(?:[-*+]|\d+[.)])\s+")
QUOTE = re.compile(r"\s*>\s?")
COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
IMAGE = re.compile(r"!\[[^\]]*\](?:\([^)]*\))?")
LINK = re.compile(r"\[([^\]]*)\](?:\([^)]*\)|\[[^\]]*\])")
ADDRESS = re.compile(r"<?https?://[^\s>)]+>?")
CODE = re.compile(r"(`+)(.+?)\1", re.DOTALL)
TAG = re.compile(r"</?[a-zA-Z][^>]*>")
SENTENCE_END = re.compile(r"(?<=[.!?])[)\"'*_\]]*\s+")
ABBREVIATION = re.compile(r"\b(?:e\.g|i\.e|et al|cf|vs|Fig|Eq|Sec|No|approx|[A-Z])\.$")
CODE_WORD = "Code"


class Sentence(NamedTuple):
    """A sentence of a document: the line on which its paragraph's sentence begins, and its words."""

    file: str
    line: int
    text: str

    @property
    def words(self) -> int:
        return len(words_of(self.text))

    @property
    def pauses(self) -> int:
        """Commas, semicolons and colons, those inside numbers and times apart."""
        return len(re.findall(r"[,;:](?=\s|$)", self.text))


class Document(NamedTuple):
    """A document's sentences, its lines that are too long, and the listed phrases that it has."""

    name: str
    sentences: list[Sentence]
    long_lines: list[str]
    banned: list[str]

    def problems(self) -> Iterator[str]:
        average = average_words(self.sentences)
        if average > WORDS_PER_SENTENCE:
            yield f"{self.name}: {average:.1f} words a sentence on average; the limit is {WORDS_PER_SENTENCE}"
        yield from self.long_lines
        yield from self.banned


def words_of(text: str) -> list[str]:
    """Pieces between spaces that have a letter or a digit."""
    return [piece for piece in text.split() if any(character.isalnum() for character in piece)]


def average_words(sentences: list[Sentence]) -> float:
    return sum(sentence.words for sentence in sentences) / max(1, len(sentences))


def average_pauses(sentences: list[Sentence]) -> float:
    return sum(sentence.pauses for sentence in sentences) / max(1, len(sentences))


def without_comments(text: str) -> str:
    """The document with HTML comments blanked; lines keep their numbers."""
    return COMMENT.sub(lambda found: "\n" * found[0].count("\n"), text)


def prose_lines(text: str) -> Iterator[tuple[int, str]]:
    """The numbered lines outside code blocks."""
    fence = ""
    for number, line in enumerate(text.splitlines(), start=1):
        found = FENCE.match(line)
        if fence:
            closes = found and found[1].startswith(fence) and not line.strip(" `~>")
            fence = "" if closes else fence
        elif found:
            fence = found[1]
            yield number, ""
        else:
            yield number, line


def paragraphs(text: str) -> Iterator[list[tuple[int, str]]]:
    """Paragraphs and list items, as numbered lines without list marks and quote marks."""
    block: list[tuple[int, str]] = []
    for number, raw in prose_lines(without_comments(text)):
        line = QUOTE.sub("", raw, count=1) if QUOTE.match(raw) else raw
        item = LIST_ITEM.match(line)
        no_prose = not line.strip() or HEADING.match(line) or TABLE_ROW.match(line) or RULE.match(line)
        if (no_prose or item) and block:
            yield block
            block = []
        if not no_prose:
            block.append((number, line[item.end() :] if item else line))
    if block:
        yield block


def plain(text: str) -> str:
    """The words that a reader sees: no addresses, no marks, a piece of code as one word."""
    text = CODE.sub(lambda found: CODE_WORD + "\n" * found[2].count("\n"), text)
    text = IMAGE.sub(lambda found: "\n" * found[0].count("\n"), text)
    text = LINK.sub(lambda found: found[1] + "\n" * found[0][len(found[1]) + 1 :].count("\n"), text)
    return TAG.sub("", ADDRESS.sub(CODE_WORD, text))


def sentences_of(text: str, name: str) -> Iterator[Sentence]:
    """The sentences of a document, in order; a list item or a paragraph ends its last one."""
    for block in paragraphs(text):
        first = block[0][0]
        whole = plain("\n".join(line for _, line in block))
        start = 0
        ends = [found for found in SENTENCE_END.finditer(whole) if not ABBREVIATION.search(whole[: found.start()])]
        for end in [*ends, None]:
            piece = whole[start : end.start() if end else None]
            line = first + whole[:start].count("\n") + (len(piece) - len(piece.lstrip("\n")))
            if words_of(piece):
                yield Sentence(name, line, " ".join(piece.split()))
            start = end.end() if end else start


def long_lines(text: str, name: str) -> list[str]:
    """Lines that are too long, without code and addresses; of a table's row its longest cell counts."""
    problems = []
    for number, line in prose_lines(text):
        shown = LINK.sub(r"\1", ADDRESS.sub("", line))
        cells = shown.split("|") if TABLE_ROW.match(line) else [shown]
        length = max(map(len, cells))
        if length > LINE_LENGTH:
            problems.append(f"{name}:{number}: a line of {length} characters; the limit is {LINE_LENGTH}")
    return problems


def read_terms(path: Path = TERMS) -> dict[str, dict[str, str]]:
    """The tables of the list: `prose` holds outside code, `everywhere` in code too. Phrase -> what to write instead."""
    tables = tomllib.loads(path.read_text())
    if unknown := tables.keys() - {"prose", "everywhere"}:
        raise ValueError(f"{path}: unknown tables: {', '.join(sorted(unknown))}")
    return tables


def banned_phrases(text: str, name: str, terms: dict[str, dict[str, str]]) -> list[str]:
    """Where the document has a phrase of the list, with what to write instead."""
    prose = [""] * (text.count("\n") + 1)
    for index, line in prose_lines(without_comments(text)):
        prose[index - 1] = line
    outside_code = CODE.sub(lambda found: CODE_WORD + "\n" * found[0].count("\n"), "\n".join(prose))
    found: list[tuple[int, str]] = []
    for section, searched in (("prose", outside_code), ("everywhere", text)):
        for phrase, instead in terms.get(section, {}).items():
            for match in _phrase(phrase, exact=section == "everywhere").finditer(searched):
                number = searched.count("\n", 0, match.start()) + 1
                found.append((number, f'{name}:{number}: "{phrase}": {instead}'))
    return [message for _, message in sorted(found)]


def _phrase(phrase: str, *, exact: bool) -> re.Pattern[str]:
    """Finds the phrase as whole words, over line ends too; upper and lower case are one unless `exact`."""
    body = r"\s+".join(map(re.escape, phrase.split()))
    before = r"(?<!\w)" if phrase[0].isalnum() or phrase[0] == "_" else ""
    after = r"(?!\w)" if phrase[-1].isalnum() or phrase[-1] == "_" else ""
    return re.compile(before + body + after, 0 if exact else re.IGNORECASE)


def measure(path: Path, terms: dict[str, dict[str, str]]) -> Document:
    text, name = path.read_text(), str(path)
    return Document(name, list(sentences_of(text, name)), long_lines(text, name), banned_phrases(text, name, terms))


def table(documents: list[Document]) -> Iterator[str]:
    """A line per document, and one of all."""
    everything = [sentence for document in documents for sentence in document.sentences]
    total = Document(
        "all", everything, [x for d in documents for x in d.long_lines], [x for d in documents for x in d.banned]
    )
    width = max(len(document.name) for document in [*documents, total])
    yield f"{'document':{width}}  sentences  words each  , ; : each  long lines  terms"
    for one in [*documents, total]:
        words, pauses = average_words(one.sentences), average_pauses(one.sentences)
        counts = f"{len(one.long_lines):10}  {len(one.banned):5}"
        yield f"{one.name:{width}}  {len(one.sentences):9}  {words:10.1f}  {pauses:10.1f}  {counts}"


def default_files(root: Path) -> list[Path]:
    return [root / "README.md", root / "CONTRIBUTING.md", *sorted((root / "docs").rglob("*.md"))]


def problems_of(documents: list[Document]) -> list[str]:
    """What breaks a limit, document by document, then all of them together."""
    found = [problem for document in documents for problem in document.problems()]
    average = average_words([sentence for document in documents for sentence in document.sentences])
    if average > WORDS_PER_SENTENCE:
        found.append(f"all documents: {average:.1f} words a sentence on average; the limit is {WORDS_PER_SENTENCE}")
    return found


def main(arguments: Iterable[str] | None = None) -> int:
    """Print the table, the longest sentences and the problems; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tools.readability", description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", type=Path, help="Markdown files (default: README, CONTRIBUTING, docs/)")
    parser.add_argument("--worst", type=int, default=WORST, help="how many of the longest sentences to print")
    options = parser.parse_args(None if arguments is None else list(arguments))
    terms = read_terms()
    documents = [measure(path, terms) for path in options.files or default_files(Path())]
    print("\n".join(table(documents)))
    everything = [sentence for document in documents for sentence in document.sentences]
    for sentence in sorted(everything, key=lambda one: -one.words)[: options.worst]:
        print(f"\n{sentence.file}:{sentence.line}: {sentence.words} words, {sentence.pauses} , ; :\n  {sentence.text}")
    problems = problems_of(documents)
    print()
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
