"""PubTator: composite mentions, missing ids, score columns, mismatches, errors by line."""

from __future__ import annotations

import pytest

from clinical_tasks import ReadError, read_pubtator

ABSTRACT = "7|t|Ocular and auditory toxicity of X.\n7|a|X | y caused it.\n"


def test_composite_mentions_and_ids(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text(
        ABSTRACT + "7\t0\t28\tOcular and auditory toxicity\tDisease\tD1|D2\tOcular toxicity|auditory toxicity\n"
        "7\t32\t33\tX\tChemical\t-1\n7\t35\t36\tX\tChemical\tMESH:C9\t0.75\n7\tCID\tMESH:C9\tD1\t0.5\n\n8|t|T\n8|a|\n"
    )
    first, second = read_pubtator(path)
    assert [(m.start, m.end, m.ids, m.parts) for m in first.mentions] == [
        (0, 28, ("D1", "D2"), ("Ocular toxicity", "auditory toxicity")),
        (32, 33, (), ()),
        (35, 36, ("C9",), ()),
    ]
    assert [(r.type, r.head, r.tail) for r in first.relations] == [("CID", "C9", "D1")]
    assert first.text[35:] == "X | y caused it." and first.mismatches == ()
    assert (second.doc_id, second.text) == ("8", "T\n")


def test_line_ends_odd_characters_and_tabs_at_ends(tmp_path):
    path = tmp_path / "a.txt"
    title, abstract = "é😀 \x0b\x85 X", "\u2028Y |a| 9|t|z."
    path.write_bytes(
        f"\ufeff7|t|{title}\r\n7|a|{abstract}\r\n7\t6\t7\tX\tChemical\tD1\t\t\r\n7\t9\t10\tY\tDisease\t\r\n".encode()
    )
    (document,) = read_pubtator(path)
    assert document.text == f"{title}\n{abstract}" and document.mismatches == ()
    assert [(document.text[m.start : m.end], m.ids) for m in document.mentions] == [("X", ("D1",)), ("Y", ())]


def test_a_document_that_is_there_twice_is_read_once(tmp_path):
    """As PMID 8528200 of the NCBI disease corpus."""
    path = tmp_path / "a.txt"
    first, last = "7\t32\t33\tX\tChemical\tC9\n7\tCID\tC9\tD1\n", "7\t0\t6\tOcular\tDisease\tD1\n"
    path.write_text(ABSTRACT + first + "\n" + ABSTRACT + first + last)
    (document,) = read_pubtator(path)
    assert len(document.mentions) == 2 and len(document.relations) == 1
    assert document.left_out == {"text lines repeated": 2, "annotations repeated": 2}


def test_an_annotation_that_is_there_twice_stays(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text(ABSTRACT + "7\t32\t33\tX\tChemical\tC9\n" * 2 + "7\tCID\tC9\tD1\n" * 2)
    (document,) = read_pubtator(path)
    assert len(document.mentions) == 2 and document.left_out == {"relations repeated": 1}


def test_offset_mismatches_are_found_by_line(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text(ABSTRACT + "7\t31\t32\tX\tChemical\tC9\n7\t32\t33\tX\tChemical\tC9\n")
    assert read_pubtator(path)[0].mismatches == (f"{path}:3",)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("7\t0\t500\tZebulon\tDisease\tD1", "span 0-500 is empty or beyond the document's 51 characters"),
        ("7\t3\t3\tZebulon\tDisease\tD1", "span 3-3 is empty or beyond the document's 51 characters"),
        ("7\t0\t3\tZebulon", "4 columns are neither a mention nor a relation"),
        ("7\t0\t3\tX\tDisease\tD1\t7\t3\t4\tZebulon", "10 columns are neither a mention nor a relation"),
        ("7\t" + "9" * 5000 + "\t3\tZebulon\tDisease\tD1", "6 columns are neither a mention nor a relation"),
        ("7\tZebulon", "2 columns are neither a mention nor a relation"),
        ("9\t0\t3\tZebulon\tDisease\tD1", "neither a text line nor an annotation of a document above"),
        ("Zebulon", "neither a text line nor an annotation of a document above"),
        ("7|t|Zebulon", "duplicate title for the same document"),
        ("8|a|Zebulon", "a document without a title line"),
    ],
)
def test_errors_name_file_and_line_only(tmp_path, line, reason):
    path = tmp_path / "a.txt"
    path.write_text(ABSTRACT + line + "\n")
    with pytest.raises(ReadError) as caught:
        read_pubtator(path)
    assert str(caught.value).startswith(f"{path}:3: {reason}. Fix: ")
    assert "Zebulon" not in str(caught.value)
