"""Records inside nested JSON: the objects around them, and SQuAD's nesting as emrQA and SQuAD itself write it."""

from __future__ import annotations

import json

import pytest

from clinical_tasks import ReadError, read_split
from clinical_tasks.corpus.splits import read_documents

SQUAD = {
    "reader": "squad",
    "labels": None,
    "metric": "exact_match",
    "splits": {"test": "test.json"},
    "input": "{context}\n{question}",
    "columns": {"context": "context", "question": "question", "answer": "answers.text", "document": "$parent.note_id"},
}


@pytest.fixture
def read(card, folder, tmp_path):
    """`read(content, columns=...)`: (id, input, answer) of each row."""

    def run(content, **changes):
        (folder / "test.json").write_text(content if isinstance(content, str) else json.dumps(content))
        return [
            (e.example_id, e.input_text, e.answer_text) for e in read_split(card("qa", **changes), tmp_path, "test")
        ]

    return run


def qa(question, *answers, **more):
    return {"question": question, "answers": [{"text": text, "answer_start": 0} for text in answers], **more}


def test_a_record_sees_the_objects_around_it(read):
    content = {
        "corpus": "c",
        "exams": {
            "one": {"year": 1, "data": [{"q": "A", "a": "y"}, {"q": "B", "a": "n"}]},
            "two": {"year": 2, "data": {"k": {"q": "C", "a": "y"}}},
        },
    }
    columns = {
        "id": ["$parent.$parent.corpus", "$parent.$key", "$key"],
        "question": ["q", "$parent.year"],
        "answer": "a",
    }
    assert read(
        content,
        reader="json",
        splits={"test": "test.json"},
        reader_options={"records": "exams.*.data"},
        columns=columns,
    ) == [("c/one/0", "A\n1\nAnswer:", "yes"), ("c/one/1", "B\n1\nAnswer:", "no"), ("c/two/k", "C\n2\nAnswer:", "yes")]


def test_json_reads_squad_nesting_too(read):
    content = {
        "data": [
            {
                "title": "t",
                "paragraphs": [{"context": "c1", "qas": [qa("q1", "x"), qa("q2", "y")]}, {"context": "c2", "qas": []}],
            }
        ]
    }
    columns = {
        "context": "$parent.context",
        "title": "$parent.$parent.title",
        "question": "question",
        "answer": "answers.text",
    }
    found = read(
        content,
        **{**SQUAD, "reader": "json", "columns": columns, "input": "{title} {context} {question}"},
        reader_options={"records": "data.*.paragraphs.*.qas"},
    )
    assert found == [("test:1", "t c1 q1", "x"), ("test:2", "t c1 q2", "y")]


def test_many_questions_of_a_paragraph_are_many_rows(read, card, tmp_path):
    paragraph = {
        "note_id": 5,
        "context": ["one\n", "two \n", "\n"],
        "qas": [qa(["q1", "q1 again"], "x", "z"), qa("q2", "y")],
    }
    part = {"title": "t", "paragraphs": [paragraph, {**paragraph, "note_id": 6}]}
    expected = [(f"test:{n}", f"one\ntwo\nq{2 - n % 2}", "xy"[(n + 1) % 2]) for n in (1, 2, 3, 4)]
    assert read({"version": "1", "data": [part]}, **SQUAD) == read([part], **SQUAD) == read(part, **SQUAD) == expected
    assert [d.fields["document"] for d in read_documents(card("qa", **SQUAD), tmp_path, "test")] == ["5", "5", "6", "6"]
    every = read([part], **SQUAD, reader_options={"paraphrases": "all"})
    assert [text for _, text, _ in every] == [f"one\ntwo\n{q}" for q in ("q1", "q1 again", "q2")] * 2
    assert len({name for name, _, _ in every}) == 6


def test_parts_are_chosen_by_title_and_the_rest_is_counted(read, card, tmp_path):
    parts = [
        {"title": title, "paragraphs": [{"note_id": 1, "context": "c", "qas": [qa(title, "x")] * size}]}
        for title, size in (("a", 1), ("b", 2), ("c", 3))
    ]
    options = {"titles": ["c", "a"]}
    assert [text for _, text, _ in read({"data": parts}, **SQUAD, reader_options=options)] == [
        "c\na",
        "c\nc",
        "c\nc",
        "c\nc",
    ]
    documents = read_documents(card("qa", **SQUAD, reader_options=options), tmp_path, "test")
    assert [d.left_out for d in documents] == [{"questions under titles that the card does not name": 2}, {}, {}, {}]
    assert len(read({"data": parts}, **SQUAD)) == 6
    with pytest.raises(ReadError, match=r"no part has the title 'mediction' \(did you mean 'medication'\?\)"):
        read({"title": "medication", "paragraphs": []}, **SQUAD, reader_options={"titles": ["mediction"]})


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"data": [{"title": "Zebulon"}]}, ": no list of objects under 'paragraphs'"),
        ({"dta": []}, ": no list of objects under 'data' (did you mean 'dta'?)"),
        ("[1, 2]", ": no list of objects under 'data'"),
        ({"data": [{"paragraphs": [{"context": "Zebulon", "qas": "Zebulon"}]}]}, ": no list of objects under 'qas'"),
        (
            [{"paragraphs": [{"note_id": 1, "context": "Zebulon", "qas": [qa([], "Zebulon")]}]}],
            ": record 1: a question without words",
        ),
        (
            [{"paragraphs": [{"note_id": 1, "context": "Zebulon", "qas": [qa("q"), qa("q", "x")]}]}],
            ": record 1: the answer is empty",
        ),
        ([{"paragraphs": [{"context": "Zebulon", "qas": [qa("q", "x")]}]}], ": record 1: no column '$parent.note_id'"),
    ],
)
def test_errors_name_the_record(read, folder, content, reason):
    with pytest.raises(ReadError) as caught:
        read(content, **SQUAD)
    assert str(caught.value).startswith(f"{folder / 'test.json'}{reason}") and "Zebulon" not in str(caught.value)
