"""Annotated readers, fuzzed: random valid documents come back as they were; damaged files give a clear error or account
for every line.

Accounting: mentions + relations + what is counted as left out = the annotations that the file holds, by a count of its
own.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from clinical_tasks import Document, Mention, ReadError, Relation, TaskCard
from clinical_tasks.pocket import releases
from clinical_tasks.pocket.annotated import Corpus
from clinical_tasks.pocket.files import write_annotated
from clinical_tasks.readers import READERS
from clinical_tasks.schema.card import SplitSpec
from clinical_tasks.schema.documents import mention_order

QUICK = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
MANY = settings(QUICK, max_examples=120)
# No word of these may ever come out of a message.
WORDS = ("zebulon", "quackenbush", "xanthoma", "melaena", "obtunded")
ODD = "\x0b\x0c\x1c\x85\u2028\u2029é😀&<>\"'|=;\u00a0\u0301"
FORMATS = ("brat", "i2b2", "pubtator", "bioc", "i2b2_2009", "i2b2_2012", "chemprot", "ddi")
CONCEPTS = ("pubtator", "bioc")
FIELDS = ("m", "do", "mo", "f", "du", "r")


def card_of(reader: str, **options: Any) -> TaskCard:
    return TaskCard(
        name="fuzz",
        type="re",
        reader=reader,
        splits={"test": SplitSpec(("*",))},
        input="{text}",
        metric="relation_f1",
        licence="",
        access="",
        folder="fuzz",
        reader_options=options,
    )


def write(reader: str, folder: Path, documents: list[Document]) -> None:
    corpus = Corpus("fuzz", "pubtator" if reader == "bioc" else reader, lambda draft: None, {})
    write_annotated(folder, corpus, split="test", documents=documents)
    if reader in CONCEPTS:
        (folder / ("test.BioC.xml" if reader == "pubtator" else "test.PubTator.txt")).unlink()


def read(reader: str, folder: Path, **options: Any) -> list[Document]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return list(READERS[reader](paths, card_of(reader, **options), folder))


def clean(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            path.unlink()


# Tokens between single spaces, lines of tokens: a text that every format can hold, with mentions that begin and end at
# tokens.
TOKEN = st.text(st.sampled_from(string.ascii_letters + string.digits + ".,:-" + ODD), min_size=1, max_size=6).filter(
    lambda token: token == token.strip() and " ".join(token.split()) == token and not token.startswith("nm")
)


@st.composite
def documents(draw: Any, reader: str, key: str = "1") -> Document:
    lines = draw(st.lists(st.lists(TOKEN, min_size=1, max_size=5), min_size=2, max_size=4))
    if reader in (*CONCEPTS, "chemprot"):
        lines = [lines[0], [token for line in lines[1:] for token in line]]
    text = "\n".join(" ".join(line) for line in lines)
    tokens = [match.span() for match in re.finditer(r"[^ \n]+", text)]
    pairs = draw(st.lists(st.tuples(st.integers(0, len(tokens) - 1), st.integers(0, 3)), max_size=5, unique=True))
    mentions: dict[tuple[str, int, int], Mention] = {}
    for number, (first, more) in enumerate(pairs):
        start, end = tokens[first][0], tokens[min(first + more, len(tokens) - 1)][1]
        # Only the i2b2 formats and brat let a mention run over a line or out of a passage.
        if reader in (*CONCEPTS, "chemprot", "ddi"):
            end = min(end, text.find("\n", start) if "\n" in text[start:] else len(text))
        kind = draw(st.sampled_from(FIELDS if reader == "i2b2_2009" else ("Drug", "DATE")))
        ids = (f"D{number}",) if reader in CONCEPTS else ()
        mentions.setdefault((kind, start, end), Mention(f"T{number + 1}", kind, start, end, ids=ids))
    ordered = sorted(mentions.values(), key=mention_order)
    relations = []
    if reader == "i2b2_2009":
        drugs = [m for m in ordered if m.type == "m"]
        seen = set()
        for other in (m for m in ordered if m.type != "m" and drugs):
            drug = drugs[0]
            if (drug.key, other.type) not in seen:  # an entry has each field once
                seen.add((drug.key, other.type))
                relations.append(Relation(other.type, drug.key, other.key))
    elif reader != "i2b2_2012" and len(ordered) > 1:
        one, other = ordered[0], ordered[1]
        same_line = "\n" not in text[one.start : other.start]
        # 2010 relations name places: two mentions of one place are one.
        apart = (one.start, one.end) != (other.start, other.end)
        if (same_line or reader != "ddi") and (apart or reader != "i2b2"):
            ends = (one.ids[0], other.ids[0]) if reader in CONCEPTS else (one.key, other.key)
            relations.append(Relation("Treats", *ends))
    return Document(key, text, tuple(ordered), tuple(relations))


def content(document: Document) -> tuple[Any, ...]:
    named = {name: (m.type, m.start, m.end) for m in document.mentions for name in (m.key, *m.ids)}
    return (
        document.text,
        [(m.type, m.start, m.end, m.ids) for m in sorted(document.mentions, key=lambda m: (m.start, -m.end, m.type))],
        sorted((r.type, named[r.head], named[r.tail]) for r in document.relations),
    )


@pytest.mark.parametrize("reader", FORMATS)
def test_what_is_written_is_what_is_read(reader, tmp_path):
    @QUICK
    @given(documents(reader))
    def check(document):
        clean(tmp_path)
        write(reader, tmp_path, [document])
        (found,) = read(reader, tmp_path)
        assert content(found) == content(document)
        assert found.mismatches == ()

    check()


@dataclass(frozen=True)
class Sample:
    """Files of one small release, and how many annotations they hold as far as they can be counted from outside
    (None: they cannot).
    """

    files: dict[str, str]
    count: Callable[[dict[str, str]], int | None]


def lines_of(suffixes: tuple[str, ...]) -> Callable[[dict[str, str]], int | None]:
    return lambda files: sum(
        bool(line.strip())
        for name, text in files.items()
        if name.endswith(suffixes)
        for line in text.removeprefix("\ufeff").split("\n")
    )


def elements_in(*holders: str, beside: tuple[str, ...] = ()) -> Callable[[dict[str, str]], int | None]:
    """All children of some elements, whatever their tags have become, beside those that only give structure."""

    def count(files: dict[str, str]) -> int | None:
        total = 0
        for text in files.values():
            try:
                root = ElementTree.fromstring(text.removeprefix("\ufeff"))
            except ElementTree.ParseError:
                return None
            total += sum(child.tag not in beside for tag in holders for holder in root.iter(tag) for child in holder)
        return total

    return count


def pubtator_lines(files: dict[str, str]) -> int | None:
    (text,) = files.values()
    return sum(
        bool(line.strip()) and not re.match(r"[^|\t]+\|[ta]\|", line)
        for line in text.removeprefix("\ufeff").split("\n")
    )


def fields_of(files: dict[str, str]) -> int | None:
    entries = [
        line.rstrip()
        for name, text in files.items()
        if name.endswith(".entries")
        for line in text.removeprefix("\ufeff").split("\n")
    ]
    return sum(not re.fullmatch(r'[a-z]+="nm"', part) for line in entries if line.strip() for part in line.split("||"))


NOTE = "Zebulon Quackenbush\nhad xanthoma , melaena ."
DRUGS = (
    Mention("T1", "Drug", 0, 7, ids=("D1",)),
    Mention("T2", "DATE", 24, 32, ids=("D2",)),
    Mention("T3", "Drug", 35, 42, ids=("D3",)),
)
DOCUMENT = Document("7", NOTE, DRUGS, (Relation("Treats", "T2", "T3"),))
CONCEPT = Document("7", NOTE, DRUGS, (Relation("Treats", "D2", "D3"),))
ENTRY = Document(
    "7",
    NOTE,
    (Mention("T1", "m", 0, 7), Mention("T2", "do", 24, 32), Mention("T3", "m", 35, 42)),
    (Relation("do", "T1", "T2"),),
)
BRAT = (
    "T1\tDrug 0 7\tZebulon\nT2\tDATE 24 32\txanthoma\nT3\tDrug 35 42\tmelaena\nT4\tDrug 8 11;16 19\tQua "
    "ush\nR1\tTreats Arg1:T2 Arg2:T3\t\n"
    "E1\tDrug:T1 When:T2\nA1\tNegated T3\nM1\tCertain E1 high\nN1\tReference T1 RxNorm:1191\tZebulon\n*\tEquiv T1 "
    "T3\n#1\tAnnotatorNotes T1\tobtunded\n"
)


def one(files: Any) -> dict[str, str]:
    return {f"test/{name}": text for name, text in files}


SAMPLES = {
    "brat": Sample({"a.txt": NOTE, "a.ann": BRAT}, lines_of((".ann",))),
    "i2b2": Sample(
        {
            "a.txt": NOTE,
            "a.con": 'c="zebulon" 1:0 1:0||t="Drug"\nc="xanthoma" 2:1 2:1||t="DATE"\n',
            "a.rel": 'c="zebulon" 1:0 1:0||r="Treats"||c="xanthoma" 2:1 2:1\n',
            "a.ast": 'c="xanthoma" 2:1 2:1||t="DATE"||a="present"\n',
        },
        lines_of((".con", ".rel", ".ast")),
    ),
    "pubtator": Sample(
        {
            "a.txt": "7|t|Zebulon Quackenbush\n7|a|had xanthoma , melaena .\n7\t0\t7\tZebulon\tDrug\tD1\n"
            "7\t24\t42\txanthoma , melaena\tDrug\tD2|D3\txanthoma|melaena\n7\tTreats\tD1\tD2\n\n"
        },
        pubtator_lines,
    ),
    "bioc": Sample(
        {"a.xml": releases.bioc([CONCEPT])},
        elements_in("document", "passage", beside=("id", "passage", "infon", "offset", "text")),
    ),
    "i2b2_2009": Sample(one(releases.i2b2_2009([ENTRY])), fields_of),
    "i2b2_2012": Sample(one(releases.i2b2_2012([DOCUMENT])), elements_in("TAGS")),
    "chemprot": Sample(one(releases.chemprot([DOCUMENT])), lines_of(("entities.tsv", "gold_standard.tsv"))),
    "ddi": Sample(one(releases.ddi([DOCUMENT])), elements_in("document", "sentence", beside=("sentence",))),
}


def damage(data: bytes, hits: list[tuple[str, float, int]]) -> bytes:
    for kind, where, byte in hits:
        at = int(where * len(data))
        new = {"replace": bytes([byte]), "insert": bytes([byte]) + data[at : at + 1], "delete": b""}
        data = data[:at] if kind == "cut" else data[:at] + new[kind] + data[at + 1 :]
    return data


# Of all bytes those that mean something are the likelier: ends of lines and columns, digits, quotes, brackets.
BYTE = st.one_of(st.integers(0, 255), st.sampled_from(list(b'\n\t\r |:;,"<>&/=-0123456789TREAMN*#c')))
HITS = st.lists(
    st.tuples(st.sampled_from(("replace", "insert", "delete", "cut")), st.floats(0, 0.999), BYTE),
    min_size=1,
    max_size=3,
)


@pytest.mark.parametrize("reader", FORMATS)
def test_damage_is_an_error_without_content_or_is_accounted_for(reader, tmp_path):
    sample = SAMPLES[reader]
    for name in sample.files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)

    @MANY
    @given(st.sampled_from(sorted(sample.files)), HITS)
    def check(broken, hits):
        contents = {name: text.encode() for name, text in sample.files.items()}
        contents[broken] = damage(contents[broken], hits)
        for name, data in contents.items():
            (tmp_path / name).write_bytes(data)
        try:
            found = read(reader, tmp_path)
        except ReadError as error:
            message = str(error)
            assert re.match(rf"{re.escape(str(tmp_path))}/[\w./]+(:\d+)?: [^\n]+$", message)
            assert not any(word in message.lower() for word in WORDS) and error.__cause__ is None
            return
        expected = sample.count({name: data.decode() for name, data in contents.items()})
        left_out = Counter[str]()
        for document in found:
            left_out.update(document.left_out)
            assert all(0 <= m.start < m.end <= len(document.text) for m in document.mentions)
        mentions = sum(len(document.mentions) for document in found)
        # What relates the fields of a 2009 entry is their line; a second text line is no annotation; a note may have
        # lost its entries.
        relations = 0 if reader == "i2b2_2009" else sum(len(document.relations) for document in found)
        rest = sum(
            count for name, count in left_out.items() if name not in ("text lines repeated", "notes without entries")
        )
        assert expected is None or mentions + relations + rest == expected

    check()


def test_events_are_accounted_for_as_relations(tmp_path):
    for name, text in SAMPLES["brat"].files.items():
        (tmp_path / name).write_text(text)
    (ignored,), (used,) = read("brat", tmp_path), read("brat", tmp_path, events="relations")
    assert ignored.left_out == {"E lines": 1, "A lines": 1, "M lines": 1, "N lines": 1, "* lines": 1, "# lines": 1}
    assert "E lines" not in used.left_out and len(used.relations) == len(ignored.relations) + 1
    (typed,) = read("brat", tmp_path, events="argument_types")
    assert {r.type for r in used.relations} == {"Treats", "When"} and {r.type for r in typed.relations} == {
        "Treats",
        "DATE",
    }
