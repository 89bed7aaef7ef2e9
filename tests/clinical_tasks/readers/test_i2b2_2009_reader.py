"""i2b2 2009: entries of fields, `nm`, fields in several parts, two ways to count tokens; errors that never quote."""

from __future__ import annotations

import pytest

from clinical_tasks import ReadError, read_split, round_trip
from clinical_tasks.corpus.splits import read_documents

SPLITS = {"test": ["notes/*", "entries/*"]}
LABELS = {"m": "medication", "do": "dosage", "mo": "route", "f": "frequency", "du": "duration", "r": "reason"}


@pytest.fixture
def mine(card):
    return card("ner", reader="i2b2_2009", splits=SPLITS, labels=LABELS)


@pytest.fixture
def write(folder):
    """`write(text, entries)` writes a note without suffix and its entries, and returns the entries' path."""

    def make(text, entries, name="11", suffix=".i2b2.entries"):
        for kind in ("notes", "entries"):
            (folder / kind).mkdir(exist_ok=True)
        (folder / "notes" / name).write_text(text, encoding="utf-8", newline="")
        path = folder / "entries" / f"{name}{suffix}"
        path.write_text(entries, encoding="utf-8", newline="")
        return path

    return make


def spans(document):
    return [(m.type, document.text[m.start : m.end], m.fragments) for m in document.mentions]


def test_fields_are_mentions_and_relate_to_their_medication(mine, write, tmp_path):
    write(
        "Aspirin 81 mg daily\nor as needed for Chest\npain , aspirin 325 mg .\n",
        'm="aspirin" 1:0 1:0||do="81 mg" 1:1 1:2||mo="nm"||f="daily ... as needed" 1:3 1:3,2:1 '
        '2:2||du="nm"||r="chest pain" 2:4 3:0||ln="list"\n'
        'm="aspirin" 3:2 3:2||do="325 mg" 3:3 3:4||mo="nm"||f="nm"||du="nm"||r="chest pain" 2:4 '
        '3:0||e="x"||t="y"||c="z"||ln="narrative"\n\n',
    )
    (document,) = read_documents(mine, tmp_path, "test")
    assert document.doc_id == "notes/11" and document.mismatches == ()
    assert spans(document) == [
        ("m", "Aspirin", ()),
        ("do", "81 mg", ()),
        ("f", "daily\nor as needed", ((14, 19), (23, 32))),
        ("r", "Chest\npain", ()),
        ("m", "aspirin", ()),
        ("do", "325 mg", ()),
    ]
    types = {m.key: m.type for m in document.mentions}
    assert [(r.type, types[r.head], types[r.tail]) for r in document.relations] == [
        ("do", "m", "do"),
        ("f", "m", "f"),
        ("r", "m", "r"),
        ("do", "m", "do"),
        ("r", "m", "r"),
    ]
    assert document.left_out == {
        "ln fields": 2,
        "fields annotated before": 1,
        "e fields": 1,
        "t fields": 1,
        "c fields": 1,
    }
    (example,) = read_split(mine, tmp_path, "test")
    assert example.answer_text.split("\n")[2] == "frequency: daily or as needed"
    assert round_trip(mine, [example])["span_f1_strict"] == 1.0


def test_ugly_text(mine, write, tmp_path):
    # CRLF, a byte order mark, characters that splitlines breaks at, quotes and bars in the quoted words.
    note = '\ufeffé😀 \x0b\x85\u2028 x\r\ngave "a|b"\r\n'
    write(note, 'm=""a|b"" 2:1 2:1||do="nm"||r="é" 1:0 1:0||ln="list"\r\n')
    (document,) = read_documents(mine, tmp_path, "test")
    assert [text for _, text, _ in spans(document)] == ["\ufeffé😀", '"a|b"']
    assert document.mismatches == (f"{tmp_path}/mine/entries/11.i2b2.entries:1",)


@pytest.mark.parametrize(
    ("entry", "found"),
    [('m="aspirin" 1:3 1:3', "aspirin"), ('m="aspirin" 1:1 1:1', "aspirin"), ('m="x" 1:3 1:3', "aspirin")],
)
def test_tokens_are_counted_as_the_quoted_words_say(mine, write, tmp_path, entry, found):
    """Between single spaces, as in 2010, an empty token stands between two spaces; some files count runs of
    whitespace. A tie is the former.
    """
    write("  x aspirin", entry)
    assert [text for _, text, _ in spans(read_documents(mine, tmp_path, "test")[0])] == [found]


def test_notes_and_entries_find_each_other(mine, write, folder, tmp_path):
    for name, suffix in (("11", ".m"), ("12", "_gold.entries"), ("13.txt", "")):
        write("x", 'm="x" 1:0 1:0', name, suffix)
    (folder / "entries" / "13.txt").rename(folder / "entries" / "13.entries")
    (folder / "notes" / "14").write_text("nobody annotated this")
    documents = read_documents(mine, tmp_path, "test")
    assert [d.doc_id for d in documents] == ["notes/11", "notes/12", "notes/13"]
    assert [d.left_out for d in documents] == [{"notes without entries": 1}, {}, {}]
    (folder / "entries" / "11.entries").write_text("")
    with pytest.raises(ReadError, match="duplicate file for the same note in one split"):
        read_documents(mine, tmp_path, "test")
    (folder / "entries" / "11.entries").rename(folder / "entries" / "15.entries")
    with pytest.raises(ReadError, match=r"15\.entries: no note of this name"):
        read_documents(mine, tmp_path, "test")


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ("Zebulon Quackenbush", "not an entry of this format"),
        ('m="Zebulon" 1:0', "not an entry of this format"),
        ('m="Zebulon" 1:0 1:0||m="Quackenbush" 1:1 1:1', "not an entry of this format"),
        ('m="Zebulon" 1:0 1:0|||do="Quackenbush" 1:1 1:1||ln="list"', "not an entry of this format"),
        ('z="Zebulon" 1:0 1:0', "not an entry of this format"),
        ('m="Zebulon" 9:0 9:0', "line 9 is named, but the note has 2 lines"),
        ('m="Zebulon" 1:0 1:0,1:7 1:7', "token 7 of line 1 is named, but that line has 2 tokens"),
        ('m="Zebulon" 1:1 1:0', "a span is empty or ends before it begins"),
    ],
)
def test_errors_name_file_and_line_only(mine, write, tmp_path, canary, entry, reason):
    path = write(f"{canary}\n", f'm="quackenbush" 1:1 1:1||ln="list"\n{entry}\n')
    with pytest.raises(ReadError) as caught:
        read_documents(mine, tmp_path, "test")
    assert str(caught.value).startswith(f"{path}:2: {reason}. Fix: ")
    assert all(word not in str(caught.value) for word in canary.split())


def test_quoted_words_may_look_like_places(mine, write, tmp_path):
    write("x at 8:00 12:00", 'm="x" 1:0 1:0||do="nm"||mo="nm"||f="at 8:00 12:00" 1:1 1:3||du="nm"||r="nm"')
    (document,) = read_documents(mine, tmp_path, "test")
    assert [text for _, text, _ in spans(document)] == ["x", "at 8:00 12:00"] and document.mismatches == ()


def test_a_field_with_words_and_no_place_is_counted(mine, write, tmp_path):
    write("x", 'm="x" 1:0 1:0||r="pain"')
    assert read_documents(mine, tmp_path, "test")[0].left_out == {"fields without a place": 1}
