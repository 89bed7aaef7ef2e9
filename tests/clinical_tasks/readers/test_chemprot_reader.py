"""ChemProt: three tables of one set, joined by PMID; offsets over title, one character, abstract; errors by file
and line.
"""

from __future__ import annotations

import pytest

from clinical_tasks import ReadError, read_split, round_trip
from clinical_tasks.corpus.splits import read_documents

ABSTRACTS = '7\tV and W.\té😀 X\x0b\x85\u2028 blocks Y. A "Z" too.\t\r\n8\tOnly a title.\t\n'
ENTITIES = (
    "7\tT1\tCHEMICAL\t0\t1\tV\n7\tT2\tGENE-Y\t6\t7\tW\t\r\n7\tT3\tCHEMICAL\t12\t13\tX\n7\tT4\tGENE-N\t24\t25\tY\n"
)
GOLD = "7\tCPR:4\tArg1:T3\tArg2:T4\t\n7\tCPR:9\tArg1:T1\tArg2:T2\r\n7\tCPR:4\tArg1:T3\tArg2:T4\n\n"
LABELS = {"CPR:4": "inhibits"}


@pytest.fixture
def write(folder):
    def make(abstracts=ABSTRACTS, entities=ENTITIES, gold=GOLD, last="gold_standard"):
        for name, content in (("abstracts_gs", abstracts), ("entities_gs", entities), (last, gold)):
            (folder / f"chemprot_test_{name}.tsv").write_text(content, encoding="utf-8", newline="")

    return make


@pytest.fixture
def mine(card):
    return card("re", reader="chemprot", splits={"test": "chemprot_test_*.tsv"}, labels=LABELS)


def test_the_three_tables_are_one_set(mine, write, tmp_path):
    write()
    first, second = read_documents(mine, tmp_path, "test")
    assert (first.doc_id, second.doc_id, second.text) == ("7", "8", "Only a title.") and first.mismatches == ()
    assert first.text == 'V and W.\né😀 X\x0b\x85\u2028 blocks Y. A "Z" too.'
    assert [(m.key, m.type, first.text[m.start : m.end]) for m in first.mentions] == [
        ("T1", "CHEMICAL", "V"),
        ("T2", "GENE-Y", "W"),
        ("T3", "CHEMICAL", "X"),
        ("T4", "GENE-N", "Y"),
    ]
    assert [(r.type, r.head, r.tail) for r in first.relations] == [("CPR:4", "T3", "T4"), ("CPR:9", "T1", "T2")]
    assert first.left_out == {"relations repeated": 1}
    example, other = read_split(mine, tmp_path, "test")
    assert (example.answer_text, other.answer_text) == ("X | inhibits | Y", "none") and round_trip(mine, [example])[
        "relation_f1"
    ] == 1.0


def test_sentences_on_lines_move_no_offset(card, write, tmp_path):
    write()
    mine = card(
        "re", reader="chemprot", splits={"test": "*.tsv"}, labels=LABELS, reader_options={"sentence_lines": True}
    )
    document, _ = read_documents(mine, tmp_path, "test")
    assert document.text.endswith('blocks Y.\nA "Z" too.') and document.mismatches == ()


def test_the_relations_table_may_stand_for_the_gold_standard(mine, write, tmp_path):
    write(gold="7\tCPR:4\tY \tINHIBITOR\tArg1:T3\tArg2:T4\n", last="relations_gs")
    assert [(r.type, r.head, r.tail) for r in read_documents(mine, tmp_path, "test")[0].relations] == [
        ("CPR:4", "T3", "T4")
    ]


@pytest.mark.parametrize(
    ("table", "line", "reason"),
    [
        ("entities", "7\tT9\tGENE-Y\t6\t700\tZebulon", "span 6-700 is empty or beyond the document's 37 characters"),
        ("entities", "7\tT9\tGENE-Y\t6\t6\tZebulon", "span 6-6 is empty or beyond the document's 37 characters"),
        ("entities", "7\tT9\tGENE-Y\tx\t7\tZebulon", "start is not a whole number"),
        ("entities", "7\tT1\tGENE-Y\t6\t7\tZebulon", "duplicate id in a document"),
        ("entities", "7\tT9\tGENE-Y\t6\t7\tZebulon\tZebulon", "7 columns"),
        ("entities", "Zebulon", "a document that is in no file of abstracts"),
        ("gold", "7\tCPR:3\tArg1:T1\tArg2:T99", "a relation names an entity that the document does not have"),
        ("gold", "7\tCPR:3\tArg1:T1", "3 columns"),
        ("abstracts", "Zebulon", "1 column"),
        ("abstracts", "9\tZebulon\tZebulon\tZebulon", "4 columns"),
    ],
)
def test_errors_name_file_and_line_only(mine, write, tmp_path, table, line, reason):
    content = {"abstracts": ABSTRACTS, "entities": ENTITIES, "gold": GOLD}
    lines = content[table].rstrip("\n").count("\n") + 2
    write(**content | {table: content[table].rstrip("\n") + "\n" + line + "\n"})
    with pytest.raises(ReadError) as caught:
        read_documents(mine, tmp_path, "test")
    name = {"abstracts": "abstracts_gs", "entities": "entities_gs", "gold": "gold_standard"}[table]
    assert str(caught.value).startswith(
        f"{tmp_path}/mine/chemprot_test_{name}.tsv:{lines}: {reason}"
    ) and "Zebulon" not in str(caught.value)


def test_mismatches_and_files_of_other_names(mine, write, folder, tmp_path):
    write(entities=ENTITIES.replace("24\t25", "25\t26"))
    assert read_documents(mine, tmp_path, "test")[0].mismatches == (f"{folder}/chemprot_test_entities_gs.tsv:4",)
    (folder / "chemprot_test_notes.tsv").write_text("")
    with pytest.raises(ReadError, match=r"chemprot_test_notes\.tsv: its name does not say what it holds"):
        read_documents(mine, tmp_path, "test")
