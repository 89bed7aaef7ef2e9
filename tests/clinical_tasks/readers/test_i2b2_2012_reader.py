"""i2b2 2012 XML: offsets from 1, CDATA and escapes, line ends, what is left out; and XML that must not be trusted."""

from __future__ import annotations

import pytest

from clinical_tasks import ReadError
from clinical_tasks.corpus.splits import read_documents

TAG = '<EVENT id="{id}" start="{start}" end="{end}" text="{text}" modality="FACTUAL" polarity="POS" type="PROBLEM" />'
RELEASE = (
    '<?xml version="1.0" encoding="UTF-8" '
    "?>\n<ClinicalNarrativeTemporalAnnotation>\n<TEXT>{text}</TEXT>\n<TAGS>\n{tags}\n</TAGS>\n"
    "</ClinicalNarrativeTemporalAnnotation>\n"
)


@pytest.fixture
def read(card, folder, tmp_path):
    """`read(text, *tags)` writes one file, TEXT as given, and returns its document."""

    def make(text, *tags, whole=RELEASE, encoding="utf-8"):
        content = whole.format(text=text, tags="\n".join(tags))
        (folder / "1.xml").write_bytes(content.encode(encoding))
        (document,) = read_documents(
            card("ner", reader="i2b2_2012", splits={"test": "*.xml"}, labels=None), tmp_path, "test"
        )
        return document

    return make


def event(text, start, end, key="E0"):
    return TAG.format(id=key, start=start, end=end, text=text)


def words(document):
    return [document.text[m.start : m.end] for m in document.mentions]


def test_the_release_counts_from_one_after_the_first_line_break(read):
    document = read(
        "<![CDATA[\nAdmission Date :\n09/29/1993\nCough .\n]]>",
        event("Admission", 1, 10),
        event("Cough", 29, 34, "E1"),
        '<TIMEX3 id="T0" start="18" end="28" text="09/29/1993" type="DATE" val="1993-09-29" mod="NA" />',
        '<SECTIME id="S0" start="18" end="28" text="09/29/1993" type="ADMISSION" dvalue="1993-09-29" />',
        '<TLINK id="TL0" fromID="E1" fromText="Cough" toID="T0" toText="09/29/1993" type="AFTER" />',
        '<TLINK id="TL1" fromID="E1" fromText="Cough" toID="T0" toText="09/29/1993" type="AFTER" />',
        '<TLINK id="TL2" fromID="E1" fromText="Cough" toID="S0" toText="09/29/1993" type="AFTER" />',
        '<EVENT id="E2" start="-1" end="-1" text="" type="PROBLEM" />',
    )
    assert document.text == "Admission Date :\n09/29/1993\nCough ." and document.doc_id == "1"
    assert words(document) == ["Admission", "09/29/1993", "Cough"] and document.mismatches == ()
    assert [(m.key, m.type) for m in document.mentions] == [("E0", "PROBLEM"), ("T0", "DATE"), ("E1", "PROBLEM")]
    assert [(r.type, r.head, r.tail) for r in document.relations] == [("AFTER", "E1", "T0")]
    assert document.left_out == {
        "SECTIME elements": 1,
        "TLINK elements repeated": 1,
        "TLINK elements with an end that is not a mention": 1,
        "EVENT elements without a place": 1,
    }


@pytest.mark.parametrize(
    ("text", "start", "end"),
    [
        ("no cough", 4, 9),  # from 1, end exclusive
        ("no cough", 3, 8),  # from 0
        ("no cough", 4, 8),  # from 1, end inclusive
        ("\nno cough\n", 4, 9),  # from 1 after the line break
        ("\nno cough\n", 5, 10),  # from 1 with it
        ("\r\nno cough\r\n", 4, 9),
        ("\r\n\r\nno cough", 6, 11),  # from 1 after the first line break, CR LF counted as two
        ("\r\n\r\nno cough", 5, 10),  # ... as one
    ],
)
def test_a_file_is_counted_as_its_quoted_texts_say(read, text, start, end):
    document = read(f"<![CDATA[{text}]]>", event("cough", start, end))
    assert words(document) == ["cough"] and document.mismatches == ()
    assert (
        document.text == text.strip() or document.text == "\r\n" + text.strip() or document.text == "\n" + text.strip()
    )


def test_without_agreement_the_file_counts_from_one_and_the_mismatch_is_told(read, tmp_path):
    document = read("<![CDATA[no cough]]>", event("fever", 4, 9))
    assert words(document) == ["cough"] and document.mismatches == (f"{tmp_path}/mine/1.xml:5",)


def test_escapes_odd_characters_and_spans_over_lines(read):
    # The text of a note may be CDATA or escaped; XML itself has no \x0b, and attributes no line break.
    text = '\ufeffé😀 \x0b\x85\u2028 R&D <b> "left\r\narm" pain'
    start = text.index("left") + 1
    plain = text.replace("&", "&amp;").replace("<", "&lt;")
    for body in (f"<![CDATA[{text}]]>", plain):
        document = read(
            body,
            event("left arm&quot; pain", start, start + 15),
            event("R&amp;D &lt;b&gt;", start - 9, start - 2, "E1"),
        )
        assert document.text == text and document.mismatches == ()
        assert words(document) == ["R&D <b>", 'left\r\narm" pain']


def test_attributes_that_their_tool_did_not_escape(read):
    text = '<![CDATA[\nH&P: BP <90 "low" <x y="a&b">\n]]>'
    document = read(
        text,
        event("H&P", 1, 4),
        event("BP <90", 6, 12, "E1"),
        event('"low"', 13, 18, "E2"),
        event("&lt;x", 19, 21, "E3"),
    )
    assert words(document) == ["H&P", "BP <90", '"low"', "<x"] and document.mismatches == ()
    assert document.text == 'H&P: BP <90 "low" <x y="a&b">'


def test_a_byte_order_mark_before_the_declaration_is_none_of_the_note(read):
    document = read("<![CDATA[no cough]]>", event("cough", 4, 9), encoding="utf-8-sig")
    assert document.text == "no cough"


@pytest.mark.parametrize(
    ("tag", "reason"),
    [
        (event("Zebulon", 1, 500), "span 1-500 is empty or beyond the note's 19 characters"),
        (event("Zebulon", 5, 5), "span 5-5 is empty or beyond the note's 19 characters"),
        (event("Zebulon", "x", 5), "start is not a whole number"),
        (event("Zebulon", 1, "8" * 5000), "end is not a whole number"),
        ('<EVENT id="E1" start="1" text="Zebulon" type="PROBLEM" />', "<EVENT> has no attribute end"),
        ('<EVENT id="E1" start="1" end="8" text="Zebulon" />', "<EVENT> has no attribute type"),
        (event("Zebulon", 1, 8, "E9"), "duplicate id"),
        ("<EVENT Zebulon", "not well-formed XML (not well-formed (invalid token))"),
        ("&zebulon;", "not well-formed XML (undefined entity)"),
    ],
)
def test_errors_name_file_and_line_only(read, tmp_path, canary, tag, reason):
    with pytest.raises(ReadError) as caught:
        read(f"<![CDATA[{canary}]]>", event("Zebulon", 1, 8, "E9"), tag)
    message = str(caught.value)
    assert (
        message.startswith(f"{tmp_path}/mine/1.xml:")
        and f": {reason}. Fix: " in message
        and ":6: " in message
        or ":7: " in message
    )
    assert all(word.lower() not in message.lower() for word in canary.split()) and "\n" not in message


@pytest.mark.parametrize(
    ("doctype", "reason"),
    [
        ('<!DOCTYPE a [<!ENTITY lol "ha"><!ENTITY lol2 "&lol;&lol;&lol;">]>', "an entity declaration"),
        ('<!DOCTYPE a [<!ENTITY file SYSTEM "file:///etc/passwd">]>', "an entity declaration"),
        ('<!DOCTYPE a [<!ENTITY % more SYSTEM "http://localhost/x.dtd">%more;]>', "an entity declaration"),
        ('<!DOCTYPE a SYSTEM "http://localhost/x.dtd">', "a reference to an undeclared entity"),
    ],
)
def test_entities_are_refused_and_nothing_is_fetched(read, tmp_path, doctype, reason):
    whole = doctype.replace("{", "{{").replace("}", "}}") + "\n<a><TEXT>{text}</TEXT><TAGS>{tags}</TAGS></a>"
    with pytest.raises(ReadError, match=f"1.xml:[12]: {reason}"):
        read("&lol; &file;", whole=whole)


def test_a_note_holds_text_alone_and_both_parts_are_there(read):
    with pytest.raises(ReadError, match="no TEXT of the note alone, or no TAGS"):
        read("pain <b>left</b>")
    with pytest.raises(ReadError, match="no TEXT of the note alone, or no TAGS"):
        read("pain", whole="<a><TEXT>{text}</TEXT>{tags}</a>")
