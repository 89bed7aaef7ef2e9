"""PubTator: composite mentions, missing ids, score columns, mismatches, errors by line."""

from __future__ import annotations

import pytest

from clinical_tasks import ReadError, read_pubtator

ABSTRACT = "7|t|Ocular and auditory toxicity of X.\n7|a|X | y caused it.\n"


def test_composite_mentions_and_ids(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text(ABSTRACT + "7\t0\t28\tOcular and auditory toxicity\tDisease\tD1|D2\tOcular toxicity|auditory toxicity\n"
                    "7\t32\t33\tX\tChemical\t-1\n7\t35\t36\tX\tChemical\tMESH:C9\t0.75\n7\tCID\tMESH:C9\tD1\t0.5\n\n8|t|T\n8|a|\n")
    first, second = read_pubtator(path)
    assert [(m.start, m.end, m.ids, m.parts) for m in first.mentions] == [
        (0, 28, ("D1", "D2"), ("Ocular toxicity", "auditory toxicity")),
        (32, 33, (), ()),
        (35, 36, ("C9",), ()),
    ]
    assert [(r.type, r.head, r.tail) for r in first.relations] == [("CID", "C9", "D1")]
    assert first.text[35:] == "X | y caused it." and first.mismatches == ()
    assert (second.doc_id, second.text) == ("8", "T\n")


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
        ("7\tZebulon", "2 columns are neither a mention nor a relation"),
        ("9\t0\t3\tZebulon\tDisease\tD1", "neither a text line nor an annotation of a document above"),
        ("Zebulon", "neither a text line nor an annotation of a document above"),
        ("7|t|Zebulon", "a second title for the same document"),
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
