"""brat: the whole grammar, offsets in characters, and errors that name a line but never quote it."""

from __future__ import annotations

import pytest

from clinical_tasks import ReadError, read_split
from clinical_tasks.corpus.splits import read_documents


def test_every_kind_of_line(card, brat, tmp_path):
    text = "Aspirin and ibuprofen\nhelped left arm and leg pain.\n"
    brat(
        "a",
        text,
        "\n".join(
            [
                "T1\tDrug 0 7\tAspirin",
                "T2\tDrug 12 21\tibuprofen",
                "T3\tProblem 29 37;42 50\tleft arm leg pain",
                "R1\tTreats Arg1:T1 Arg2:T3\t",
                "R2\tTreats Arg1:T2 Arg2:T3",
                "E1\tDrug:T1 Effect:T3",
                "A1\tNegated T3",
                "M1\tCertain E1 high",
                "N1\tReference T1 RxNorm:1191\tAspirin",
                "*\tEquiv T1 T2",
                "#1\tAnnotatorNotes T1\tseen twice",
                "",
            ]
        ),
    )
    (document,) = read_documents(card("re"), tmp_path, "test")
    assert document.doc_id == "a"
    assert [(m.key, m.type, m.start, m.end, m.fragments) for m in document.mentions] == [
        ("T1", "Drug", 0, 7, ((0, 7),)),
        ("T2", "Drug", 12, 21, ((12, 21),)),
        ("T3", "Problem", 29, 50, ((29, 37), (42, 50))),
    ]
    assert [(r.type, r.head, r.tail) for r in document.relations] == [("Treats", "T1", "T3"), ("Treats", "T2", "T3")]
    assert document.mismatches == ()


def test_events_become_relations_on_request(card, brat, tmp_path):
    brat(
        "a",
        "smokes daily, quit",
        "T1\tTobacco 0 6\tsmokes\nT2\tFreq 7 12\tdaily\nT3\tQuit 14 18\tquit\n"
        "E1\tTobacco:T1 Frequency2:T2 Then:E2\nE2\tQuit:T3\n",
    )
    assert read_documents(card("re", labels=None), tmp_path, "test")[0].relations == ()
    (document,) = read_documents(card("re", labels=None, reader_options={"events": "relations"}), tmp_path, "test")
    assert [(r.type, r.head, r.tail) for r in document.relations] == [("Frequency", "T1", "T2"), ("Then", "T1", "T3")]


def test_a_social_history_as_released(card, brat, tmp_path):
    """Triggers, arguments with numbered roles and values as attributes; relations are named after roles or after
    what the arguments are.
    """
    brat(
        "a",
        "smoker 1 pack daily , lives alone",
        "T2\tTobacco 0 6\tsmoker\nT3\tStatusTime 0 6\tsmoker\nT4\tAmount 7 13\t1 pack\nT5\tFrequency 14 19\tdaily\n"
        "T6\tLivingStatus 22 27\tlives\nT7\tTypeLiving 28 33\talone\nT8\tStatusTime 22 27\tlives\nE1\tTobacco:T2 "
        "Status:T3 Amount:T4 Amount2:T5 \n"
        "E2\tLivingStatus:T6 Type:T7 Status:T8\nA1\tStatusTimeVal T3 current\nA2\tTypeLivingVal T7 "
        "alone\nA3\tStatusTimeVal T8 current\n",
    )
    found = {}
    for events in ("relations", "argument_types", "ignore"):
        (document,) = read_documents(card("re", labels=None, reader_options={"events": events}), tmp_path, "test")
        found[events] = [(r.type, r.head, r.tail) for r in document.relations]
        assert (
            document.left_out == {"A lines": 3} | ({"E lines": 2} if events == "ignore" else {})
            and document.mismatches == ()
        )
    assert found == {
        "relations": [
            ("Status", "T2", "T3"),
            ("Amount", "T2", "T4"),
            ("Amount", "T2", "T5"),
            ("Type", "T6", "T7"),
            ("Status", "T6", "T8"),
        ],
        "argument_types": [
            ("StatusTime", "T2", "T3"),
            ("Amount", "T2", "T4"),
            ("Frequency", "T2", "T5"),
            ("TypeLiving", "T6", "T7"),
            ("StatusTime", "T6", "T8"),
        ],
        "ignore": [],
    }


def test_relations_of_events_and_what_is_left_out(card, brat, tmp_path):
    brat(
        "a",
        "aspirin, pain",
        "T1\tDrug 0 7\taspirin\nT2\tProblem 9 13\tpain\nE1\tDrug:T1\nE2\tProblem:T2\nR1\tTreats Arg1:E1 Arg2:E2\n"
        "R2\tTreats Arg1:T1 Arg2:T2\n*\tEquiv T1 T2\n#1\tNote T1\tsure\n",
    )
    (document,) = read_documents(card("re", labels=None), tmp_path, "test")
    assert [(r.type, r.head, r.tail) for r in document.relations] == [("Treats", "T1", "T2")]
    assert document.left_out == {"* lines": 1, "# lines": 1, "relations repeated": 1, "E lines": 2}


def test_a_mention_without_its_words_is_a_mismatch(card, brat, tmp_path):
    path = brat("a", "pain", "T1\tProblem 0 4\n")
    assert read_documents(card("ner"), tmp_path, "test")[0].mismatches == (f"{path}:1",)


def test_offsets_count_characters_of_the_text_as_it_is(card, brat, tmp_path):
    # Two bytes, four bytes, CRLF, and line separators that splitlines would break at.
    text = "\ufeffé😀\r\n\x0b\x85\u2028 aspirin"
    start = text.index("aspirin")
    brat("a", text, f"T1\tDrug {start} {start + 7}\taspirin\r\n")
    (document,) = read_documents(card("ner"), tmp_path, "test")
    (mention,) = document.mentions
    assert document.text[mention.start : mention.end] == "aspirin"
    assert document.mismatches == ()


def test_a_mention_over_a_line_end_is_no_mismatch_but_a_shifted_one_is(card, brat, tmp_path):
    path = brat("a", "chest\npain, cough", "T1\tProblem 0 10\tchest pain\nT2\tProblem 11 16\tcough\n")
    (document,) = read_documents(card("ner"), tmp_path, "test")
    assert document.mismatches == (f"{path}:2",)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("T2\tDrug 0 x\tZebulon Quackenbush", "offsets are not numbers"),
        ("T2\tDrug\tZebulon Quackenbush", "offsets are not numbers"),
        ("T2\tDrug 5 5\tZebulon Quackenbush", "a span is empty or negative"),
        ("T2\tDrug 5 500\tZebulon Quackenbush", "offset 500 lies beyond the note's 19 characters"),
        ("T1\tDrug 0 3\tZebulon Quackenbush", "duplicate id"),
        ("T2\tDrug 0 1_0\tZebulon", "offsets are not numbers"),
        ("T2\tDrug 0 7\tZebulon\tT3\tDrug 0 7", "more columns than this kind of line has"),
        ("A1\tNegated T1\tQuackenbush", "more columns than this kind of line has"),
        ("\tZebulon", "unknown kind of annotation"),
        ("R1\t", "a relation needs two arguments"),
        ("R1\tTreats Arg1:T1\tZebulon Quackenbush", "a relation needs two arguments"),
        ("R1\tTreats Arg1:T1 Arg2:T9\tZebulon Quackenbush", "a relation names a mention that is not in the file"),
        ("E1\tDrug:T9\tZebulon Quackenbush", "an event names a trigger that is not in the file"),
        ("A1\tNegated T9 Zebulon Quackenbush", "an attribute names a target that is not in the file"),
        ("Zebulon Quackenbush", "unknown kind of annotation"),
        ("T2 Zebulon Quackenbush", "no tab after the annotation's id"),
    ],
)
def test_errors_name_file_and_line_only(card, brat, tmp_path, canary, line, reason):
    path = brat("a", canary, f"T1\tDrug 0 7\tZebulon\n\x0b\n{line}\n")
    with pytest.raises(ReadError) as caught:
        read_split(card("ner"), tmp_path, "test")
    assert str(caught.value).startswith(f"{path}:3: {reason}. Fix: ")
    assert "Zebulon" not in str(caught.value) and "Quackenbush" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_note_without_annotations_is_an_error_and_an_empty_one_is_none(card, brat, folder, tmp_path):
    brat("a", "Well.", "")
    assert read_split(card("ner"), tmp_path, "test")[0].answer_text == "none"
    (folder / "a.ann").unlink()
    with pytest.raises(ReadError, match=r"a\.ann: missing beside its twin"):
        read_split(card("ner"), tmp_path, "test")


def test_a_whole_folder_with_dots_in_names_and_a_conf_file(card, brat, folder, tmp_path):
    (folder / "sub").mkdir()
    brat("sub/b.1", "x", "")
    brat("a.2", "x", "")
    (folder / "annotation.conf").write_text("[entities]\n")
    for files in ("**/*", "**/*.ann", "**/*.txt"):
        assert sorted(d.doc_id for d in read_documents(card("ner", splits={"test": files}), tmp_path, "test")) == [
            "a.2",
            "sub/b.1",
        ]


def test_a_file_that_is_not_utf8_is_named_by_byte(card, brat, folder, tmp_path, canary):
    brat("a", "x", "")
    (folder / "a.txt").write_bytes(canary.encode() + b"\xe9 " + canary.encode())
    with pytest.raises(ReadError) as caught:
        read_split(card("ner"), tmp_path, "test")
    assert str(caught.value) == f"{folder / 'a.txt'}: not UTF-8 at byte {len(canary)}. Fix: convert the file to UTF-8"
    assert caught.value.__cause__ is None and caught.value.__suppress_context__
