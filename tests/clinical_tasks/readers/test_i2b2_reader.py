"""i2b2 2010: lines from 1, tokens from 0, single spaces; files found by name; errors that never quote."""

from __future__ import annotations

import pytest

from clinical_tasks import ReadError, load_card, read_split, round_trip
from clinical_tasks.corpus.splits import read_documents

SPLITS = {"test": ["txt/*.txt", "concept/*.con", "rel/*.rel"]}
LABELS = {"problem": "problem", "test": "test", "treatment": "treatment"}


@pytest.fixture
def write(folder):
    """`write("a", text, concepts, relations)` writes a note with its annotation files; None leaves one out."""

    def make(name, text, concepts="", relations=""):
        for kind, suffix, content in (("txt", "txt", text), ("concept", "con", concepts), ("rel", "rel", relations)):
            (folder / kind).mkdir(exist_ok=True)
            if content is not None:
                (folder / kind / f"{name}.{suffix}").write_text(content, encoding="utf-8", newline="")
        return folder

    return make


def test_places_quotes_and_relations(card, write, tmp_path):
    write(
        "note-1",
        'Aspirin for Chest Pain .\nHe had "a | b" cough .\n',
        (
            'c="chest pain" 1:2 1:3||t="problem"\nc="aspirin" 1:0 1:0||t="treatment"\nc=""a | b" cough" 2:2 '
            '2:5||t="problem"\n'
        ),
        'c="aspirin" 1:0 1:0||r="TrAP"||c="chest pain" 1:2 1:3\n',
    )
    mine = card("re", reader="i2b2", splits=SPLITS, labels={"TrAP": "treats"})
    (document,) = read_documents(mine, tmp_path, "test")
    assert document.doc_id == "txt/note-1" and document.mismatches == ()
    assert [(document.text[m.start : m.end], m.type) for m in document.mentions] == [
        ("Aspirin", "treatment"),
        ("Chest Pain", "problem"),
        ('"a | b" cough', "problem"),
    ]
    (example,) = read_split(mine, tmp_path, "test")
    assert example.answer_text == "Aspirin | treats | Chest Pain"
    assert round_trip(mine, [example])["relation_f1"] == 1.0


def test_ugly_text(card, write, tmp_path):
    # Two spaces hold an empty token; characters that splitlines breaks at do not end a line; CRLF is no part of a
    # token.
    text = "\x0bseen\u2028 for  left\r\nhand pain\r\n\x85 é😀 mri"
    write("a", text, 'c="left hand pain" 1:3 2:1||t="problem"\r\nc="mri" 3:2 3:2||t="test"\r\n\n', None)
    (document,) = read_documents(
        card("ner", reader="i2b2", splits={"test": ["txt/*", "concept/*"]}, labels=LABELS), tmp_path, "test"
    )
    assert [document.text[m.start : m.end] for m in document.mentions] == ["left\r\nhand pain", "mri"]
    assert document.mismatches == ()


def test_a_shifted_concept_is_a_mismatch_and_a_span_may_have_two_types(card, write, tmp_path):
    folder = write(
        "a",
        "old chest pain",
        'c="chest pain" 1:0 1:1||t="problem"\nc="old" 1:0 1:0||t="test"\nc="old" 1:0 1:0||t="problem"\n',
    )
    (document,) = read_documents(card("ner", reader="i2b2", splits=SPLITS, labels=LABELS), tmp_path, "test")
    assert document.mismatches == (f"{folder}/concept/a.con:1",)
    assert len(document.mentions) == 3


def test_assertions_are_counted_or_are_the_types(card, write, folder, tmp_path):
    write(
        "a",
        "no fever , cough",
        'c="fever" 1:1 1:1||t="problem"\nc="cough" 1:3 1:3||t="problem"\nc="no" 1:0 1:0||t="test"\n',
        None,
    )
    path = folder / "concept" / "a.ast"
    path.write_text('c="fever" 1:1 1:1||t="problem"||a="absent"\nc="cough" 1:3 1:3||t="problem"||a="present"\n')
    splits = {"test": ["txt/*", "concept/*"]}
    (document,) = read_documents(card("ner", reader="i2b2", splits=splits, labels=LABELS), tmp_path, "test")
    assert document.left_out == {"assertions": 2} and [m.type for m in document.mentions] == [
        "test",
        "problem",
        "problem",
    ]
    typed = card("ner", reader="i2b2", splits=splits, labels=None, reader_options={"types": "assertion"})
    (document,) = read_documents(typed, tmp_path, "test")
    assert document.left_out == {} and [m.type for m in document.mentions] == ["test", "absent", "present"]
    for lines, reason in (
        ('c="no" 1:2 1:2||t="problem"||a="absent"', "an assertion names a concept that the .con does not hold"),
        ('c="cough" 1:3 1:3||t="problem"||a="present"\n' * 2, "duplicate assertion of the concept of line 1"),
        ('c="cough" 1:3 1:3||t="problem"', "not a line of this format"),
    ):
        path.write_text(lines)
        with pytest.raises(ReadError, match=rf"a\.ast:[12]: {reason}"):
            read_documents(typed, tmp_path, "test")
    path.unlink()
    with pytest.raises(ReadError, match=r"a\.txt: no \.ast of this name"):
        read_documents(typed, tmp_path, "test")


@pytest.mark.parametrize(
    ("concept", "relation", "where", "reason"),
    [
        ('c="Zebulon" 1:0 1:0', "", "concept/a.con:2", "not a line of this format"),
        ('c="Zebulon" 9:0 9:0||t="problem"', "", "concept/a.con:2", "line 9 is named, but the note has 2 lines"),
        ('c="Zebulon" 0:0 1:0||t="problem"', "", "concept/a.con:2", "line 0 is named, but the note has 2 lines"),
        (
            'c="Zebulon" 1:0 1:5||t="problem"',
            "",
            "concept/a.con:2",
            "token 5 of line 1 is named, but that line has 2 tokens",
        ),
        ('c="Zebulon" 1:1 1:0||t="problem"', "", "concept/a.con:2", "a span is empty or ends before it begins"),
        (
            "",
            'c="Zebulon" 1:0 1:0||r="TrAP"||c="Quackenbush" 1:1 1:1',
            "rel/a.rel:1",
            "a relation names a concept that the .con does not hold",
        ),
        ("", "Zebulon Quackenbush", "rel/a.rel:1", "not a line of this format"),
    ],
)
def test_errors_name_file_and_line_only(card, write, tmp_path, canary, concept, relation, where, reason):
    folder = write("a", f"{canary}\n", f'c="zebulon" 1:0 1:0||t="problem"\n{concept}\n', relation)
    with pytest.raises(ReadError) as caught:
        read_documents(card("re", reader="i2b2", splits=SPLITS, labels=None), tmp_path, "test")
    assert str(caught.value).startswith(f"{folder}/{where}: {reason}. Fix: ")
    assert all(word not in str(caught.value) for word in canary.split())


def test_every_note_needs_its_files(card, write, folder, tmp_path):
    write("a", "x", "", None)
    ner, re = (
        card(kind, reader="i2b2", splits={"test": ["txt/*.txt", "concept/*.con"]}, labels=None)
        for kind in ("ner", "re")
    )
    assert read_split(ner, tmp_path, "test")[0].answer_text == "none"
    with pytest.raises(ReadError, match=r"a\.txt: no \.rel of this name among the split's files"):
        read_split(re, tmp_path, "test")
    (folder / "txt" / "b.txt").write_text("x")
    with pytest.raises(ReadError, match=r"b\.txt: no \.con of this name"):
        read_split(ner, tmp_path, "test")
    (folder / "concept" / "b.con").write_text("")
    (folder / "concept" / "c.con").write_text("")
    with pytest.raises(ReadError, match=r"c\.con: no \.txt of this name"):
        read_split(ner, tmp_path, "test")
    (folder / "concept" / "c.con").unlink()
    (folder / "more").mkdir()
    (folder / "more" / "a.con").write_text("")
    both = card("ner", reader="i2b2", splits={"test": ["txt/*", "concept/*", "more/*"]}, labels=None)
    with pytest.raises(ReadError, match=r"more/a\.con: duplicate \.con of this name"):
        read_split(both, tmp_path, "test")


def test_a_card_for_it_loads_from_yaml(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(
        "name: mine\ntype: ner\nreader: i2b2\nlicence: x\naccess: x\nmetric: span_f1_strict\ninput: '{text}'\n"
        "splits: {test: ['txt/*.txt', 'concept/*.con']}\n"
    )
    assert load_card(path).reader == "i2b2"
