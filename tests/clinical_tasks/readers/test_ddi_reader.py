"""DDI 2013 XML: inclusive ends, entities in parts, pairs that interact and pairs that do not; errors by line."""

from __future__ import annotations

import pytest

from clinical_tasks import ReadError, read_split, round_trip
from clinical_tasks.corpus.splits import read_documents

LABELS = {"effect": "effect", "int": "interaction"}


def entity(number, offsets, text, sentence=0):
    return f'<entity id="d.s{sentence}.e{number}" charOffset="{offsets}" type="drug" text="{text}"/>\n'


def pair(one, other, rest, sentence=0):
    return f'<pair id="d.s{sentence}.p" e1="d.s{sentence}.e{one}" e2="d.s{sentence}.e{other}" {rest}/>\n'


@pytest.fixture
def mine(card):
    return card("re", reader="ddi", splits={"test": "*.xml"}, labels=LABELS)


@pytest.fixture
def read(mine, folder, tmp_path):
    def make(*sentences):
        body = "".join(
            f'<sentence id="d.s{number}" text="{text}">\n{inner}</sentence>\n'
            for number, (text, inner) in enumerate(sentences)
        )
        (folder / "d_ddi.xml").write_text(
            f'<?xml version="1.0" encoding="UTF-8"?>\n<document id="d">\n{body}</document>\n', encoding="utf-8"
        )
        return read_documents(mine, tmp_path, "test")[0]

    return make


def test_ends_are_inclusive_and_pairs_that_interact_are_relations(read, mine, tmp_path):
    document = read(
        (
            "é😀 \x85\u2028 Aspirin &amp; old and new X&#13;&#10;",
            entity(0, "6-12", "Aspirin")
            + entity(1, "16-18;28-28", "old X")
            + entity(2, "24-28", "new X")
            + pair(0, 1, 'ddi="true" type="effect"')
            + pair(0, 2, 'ddi="false"')
            + pair(1, 2, 'ddi="true"')
            + pair(0, 1, 'ddi="true" type="effect"'),
        ),
        (
            "Y with &lt;Z&gt; &quot;.",
            entity(0, "0-0", "Y", 1) + entity(1, "8-8", "Z", 1) + pair(1, 0, 'ddi="true" type="int"', 1),
        ),
    )
    assert document.text == 'é😀 \x85\u2028 Aspirin & old and new X\r\n\nY with <Z> ".' and document.mismatches == ()
    assert [(document.text[m.start : m.end], m.fragments) for m in document.mentions] == [
        ("Aspirin", ()),
        ("old and new X", ((16, 19), (28, 29))),
        ("new X", ()),
        ("Y", ()),
        ("Z", ()),
    ]
    assert [(r.type, r.head, r.tail) for r in document.relations] == [
        ("effect", "d.s0.e0", "d.s0.e1"),
        ("int", "d.s1.e1", "d.s1.e0"),
    ]
    assert document.left_out == {
        "pairs that do not interact": 1,
        "pairs that interact but have no type": 1,
        "pairs repeated": 1,
    }
    (example,) = read_split(mine, tmp_path, "test")
    assert example.answer_text == "Aspirin | effect | old and new X\nZ | interaction | Y"
    assert round_trip(mine, [example])["relation_f1"] == 1.0


def test_exclusive_ends_would_be_mismatches(read, tmp_path):
    document = read(("Aspirin .", entity(0, "0-7", "Aspirin") + "<note/>"))
    assert document.mismatches == (f"{tmp_path}/mine/d_ddi.xml:4",) and document.left_out == {"note elements": 1}


@pytest.mark.parametrize(
    ("inner", "reason"),
    [
        (entity(1, "0-70", "Zebulon"), "characters 0-70 are empty or beyond the sentence's 7"),
        (entity(1, "3-2", "Zebulon"), "characters 3-2 are empty or beyond the sentence's 7"),
        (entity(1, "0-x", "Zebulon"), "charOffset is not a whole number"),
        (entity(1, "", "Zebulon"), "charOffset is not a whole number"),
        (entity(0, "0-6", "Zebulon"), "duplicate id"),
        ('<entity charOffset="0-6" type="drug" text="Zebulon"/>\n', "<entity> has no attribute id"),
        (pair(0, 9, 'ddi="true" type="Zebulon"'), "a pair names an entity that the document does not have"),
        (pair(0, 0, 'ddi="Zebulon"'), "ddi must be true or false"),
        (pair(0, 0, 'type="Zebulon"'), "<pair> has no attribute ddi"),
        ("<entity Zebulon>\n", "not well-formed XML"),
    ],
)
def test_errors_name_file_and_line_only(read, tmp_path, inner, reason):
    with pytest.raises(ReadError) as caught:
        read(("Zebulon", entity(0, "0-6", "Zebulon") + inner))
    assert str(caught.value).startswith(f"{tmp_path}/mine/d_ddi.xml:5: {reason}") and "Zebulon" not in str(caught.value)
