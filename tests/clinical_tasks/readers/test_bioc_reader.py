"""BioC XML: the same documents as the PubTator edition; composite mentions, fragments, nodes, sentences; errors by
line.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from clinical_tasks import ReadError, read_pubtator, read_split, round_trip
from clinical_tasks.corpus.splits import read_documents

HEAD = (
    '<?xml version="1.0" encoding="UTF-8"?>\n<!DOCTYPE collection SYSTEM "BioC.dtd">\n<collection><source>x</source>\n'
)


def annotation(key, kind, mesh, text, *places, role=""):
    composite = f'<infon key="CompositeRole">{role}</infon>' if role else ""
    locations = "".join(f'<location offset="{offset}" length="{length}"/>' for offset, length in places)
    return (
        f'<annotation id="{key}"><infon key="type">{kind}</infon>{composite}<infon '
        f'key="MESH">{mesh}</infon>{locations}<text>{text}</text></annotation>\n'
    )


def passage(offset, text, *annotations):
    return (
        "<passage><infon "
        f'key="type">p</infon><offset>{offset}</offset><text>{text}</text>\n{"".join(annotations)}</passage>\n'
    )


CID = (
    '<relation id="R{}"><infon key="relation">CID</infon><infon key="Chemical">{}</infon><infon '
    'key="Disease">{}</infon></relation>\n'
)
TITLE = passage(
    0,
    "Ocular and auditory toxicity of X.",
    annotation(0, "Disease", "D1|D2", "Ocular and auditory toxicity", (0, 28), role="CompositeMention"),
    annotation(1, "Disease", "D1", "Ocular toxicity", (0, 6), (20, 8), role="IndividualMention"),
    annotation(2, "Disease", "D2", "auditory toxicity", (11, 17), role="IndividualMention"),
    annotation(3, "Chemical", "-1", "X", (32, 1)),
)
ABSTRACT = passage(35, "X &amp; é&lt;y caused it.", annotation(4, "Chemical", "MESH:C9", "X", (35, 1)))


@pytest.fixture
def read(card, folder, tmp_path):
    def make(*parts, key="7"):
        (folder / "a.xml").write_text(f"{HEAD}<document><id>{key}</id>\n{''.join(parts)}</document>\n</collection>\n")
        (document,) = read_documents(
            card("ner", reader="bioc", splits={"test": "a.xml"}, labels=None), tmp_path, "test"
        )
        return document

    return make


def test_it_reads_what_the_pubtator_edition_says(read, tmp_path):
    document = read(TITLE, ABSTRACT, CID.format(0, "C9", "D1"), CID.format(1, "MESH:C9", "D1"))
    path = tmp_path / "a.txt"
    path.write_text(
        "7|t|Ocular and auditory toxicity of X.\n7|a|X & é<y caused it.\n"
        "7\t0\t28\tOcular and auditory toxicity\tDisease\tD1|D2\tOcular toxicity|auditory "
        "toxicity\n7\t32\t33\tX\tChemical\t-1\n"
        "7\t35\t36\tX\tChemical\tMESH:C9\n7\tCID\tC9\tD1\n"
    )
    (other,) = read_pubtator(path)
    assert document.left_out == {"single mentions of a composite one": 2, "relations repeated": 1}
    assert [replace(m, key="") for m in document.mentions] == [replace(m, key="") for m in other.mentions]
    assert (document.doc_id, document.text, document.relations, document.mismatches) == (
        other.doc_id,
        other.text,
        other.relations,
        (),
    )


def test_fragments_sentences_nodes_and_gaps(read):
    """A gap between passages may be of any width, and a passage may be cut into sentences."""
    sentence = (
        "<sentence><offset>9</offset><text>arm, leg pain</text>"
        + annotation(1, "Disease", "", "arm pain", (9, 3), (18, 4))
        + "</sentence>\n"
    )
    node = (
        '<relation id="R1"><infon key="type">Treats</infon><node refid="0" role="a"/><node refid="1" '
        'role="b"/></relation>'
    )
    document = read(
        passage(0, "X", annotation(0, "Chemical", "C1", "X", (0, 1))),
        f"<passage><offset>9</offset>{sentence}</passage>",
        node,
    )
    assert document.text == "X\narm, leg pain" and document.mismatches == ()
    assert [(m.start, m.end, m.fragments, m.ids) for m in document.mentions] == [
        (0, 1, (), ("C1",)),
        (2, 15, ((2, 5), (11, 15)), ()),
    ]
    assert [(r.type, r.head, r.tail) for r in document.relations] == [("Treats", "0", "1")]


def test_mismatches_and_unknown_elements_are_counted(read, tmp_path):
    document = read(
        passage(0, "X y", annotation(0, "Chemical", "C1", "z", (0, 1))), annotation(1, "Chemical", "C1", "X", (0, 1))
    )
    assert document.mismatches == (f"{tmp_path}/mine/a.xml:6",) and document.left_out == {"annotation elements": 1}


def test_a_document_level_task_round_trips(read, card, tmp_path):
    read(TITLE, ABSTRACT, CID.format(0, "C9", "D1"), CID.format(1, "C9", "D2"))
    mine = card(
        "re",
        reader="bioc",
        splits={"test": "a.xml"},
        labels={"CID": "induces"},
        relations={"level": "entity", "head": ["Chemical"], "tail": ["Disease"]},
    )
    (example,) = read_split(mine, tmp_path, "test")
    assert example.answer_text == "X | induces | Ocular toxicity\nX | induces | auditory toxicity"
    assert round_trip(mine, [example])["relation_f1"] == 1.0


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        (
            passage(0, "Zebulon", annotation(0, "Disease", "", "Zebulon", (3, 5))),
            "a location of 5 characters at 3 is empty or outside its passage",
        ),
        (
            passage(0, "Zebulon", annotation(0, "Disease", "", "Zebulon", (3, 0))),
            "a location of 0 characters at 3 is empty or outside its passage",
        ),
        (passage(0, "Zebulon", annotation(0, "Disease", "", "Zebulon", ("x", 5))), "offset is not a whole number"),
        (passage(0, "Zebulon", annotation(0, "Disease", "", "Zebulon")), "an annotation without a location"),
        (passage(0, "Zebulon", *[annotation(0, "Disease", "", "Zebulon", (0, 7))] * 2), "duplicate id"),
        (
            passage(0, "Zebulon", annotation(0, "Disease", "", "Zebulon", (0, 7)).replace('key="type"', 'key="kind"')),
            "an annotation without a type",
        ),
        (
            passage(0, "Zebulon", '<annotation id="1"><infon>Zebulon</infon></annotation>'),
            "<infon> has no attribute key",
        ),
        ("<passage><text>Zebulon</text></passage>", "<passage> has no <offset>"),
        (CID.format(0, "C1", "D1").replace('relation">CID', 'x">CID'), "a relation without a type or without two ends"),
        (
            '<relation id="1"><infon key="relation">Zebulon</infon><infon key="a">Zebulon</infon></relation>',
            "a relation without a type or without two ends",
        ),
        (
            '<relation id="1"><infon key="type">x</infon><node refid="5"/><node refid="6"/></relation>',
            "a relation names an annotation that is not in",
        ),
        ("<passage>Zebulon", "not well-formed XML (mismatched tag)"),
    ],
)
def test_errors_name_file_and_line_only(read, tmp_path, parts, reason):
    with pytest.raises(ReadError) as caught:
        read(parts)
    assert str(caught.value).startswith(f"{tmp_path}/mine/a.xml:") and f": {reason}" in str(caught.value)
    assert "Zebulon" not in str(caught.value)
