"""The embedded cards of the question answering corpora, each on invented records in the layout of its release."""

from __future__ import annotations

import json

import pytest

from clinical_tasks import read_split
from clinical_tasks.corpus.splits import read_documents
from clinical_tasks.schema.documents import reader_notes
from tests.clinical_tasks.released_rows import CARDS, everything, lines, put, read


def test_medqa(tmp_path):
    options = {"A": "rest", "B": "fluids", "C": "surgery", "D": "aspirin"}
    put(
        tmp_path,
        CARDS["medqa"],
        "test",
        lines(
            {
                "question": "A boy falls. What next?",
                "answer": "fluids",
                "options": options,
                "meta_info": "step1",
                "answer_idx": "B",
                "metamap_phrases": ["boy"],
            },
            {
                "question": "And then?",
                "answer": "aspirin",
                "options": {**options, "E": "wait"},
                "meta_info": "step2&3",
                "answer_idx": "d",
            },
        ),
    )
    assert read("medqa", tmp_path) == [
        ("A boy falls. What next?\nA. rest\nB. fluids\nC. surgery\nD. aspirin\nAnswer:", "B"),
        ("And then?\nA. rest\nB. fluids\nC. surgery\nD. aspirin\nE. wait\nAnswer:", "D"),
    ]


@pytest.mark.parametrize(("base", "cops"), [(1, [4, 1, 2]), (0, [3, 0, 1])])
def test_medmcqa_counts_from_one_or_from_zero(tmp_path, base, cops):
    records = [
        {
            "question": f"Q{n}?",
            "exp": None,
            "cop": cop,
            "opa": "w",
            "opb": "x",
            "opc": "y",
            "opd": "z",
            "subject_name": "Anatomy",
            "topic_name": None,
            "id": f"id-{n}",
            "choice_type": "single",
        }
        for n, cop in enumerate(cops)
    ]
    put(tmp_path, CARDS["medmcqa"], "test", lines(*records))
    assert [answer for _, answer in read("medmcqa", tmp_path)] == ["D", "A", "B"]
    decided = {0: 1, 1: 1}[base]
    assert reader_notes(read_documents(CARDS["medmcqa"], tmp_path, "test")) == [
        f"dev.json: answers count from {base}, as {decided} of 3 rows show (options.gold: index)"
    ]


def test_emrqa(tmp_path):
    def answer(text, line):
        return {
            "text": text,
            "answer_start": [line, 2],
            "evidence": text,
            "evidence_start": line,
            "answer_entity_type": "single",
        }

    def paragraph(number, *qas):
        return {"note_id": number, "context": ["Admission Date:\n", "on  aspirin 81 mg\r\n"], "qas": [*qas]}

    first = {
        "id": ["u1", "t"],
        "question": ["What is the dose?", "How much?"],
        "answers": [answer("81 mg", 2), answer("81", 2)],
    }
    second = {"id": ["u2", "t"], "question": ["Why?"], "answers": []}
    put(
        tmp_path,
        CARDS["emrqa"],
        "train",
        json.dumps(
            {
                "data": [
                    {"title": "medication", "paragraphs": [paragraph("11", first, second), paragraph("12", first)]},
                    {"title": "relations", "paragraphs": [paragraph("record-3", first)]},
                    {"title": "smoking", "paragraphs": [paragraph("4", first), paragraph("5")]},
                ]
            }
        ),
    )
    pair = ("Admission Date:\non  aspirin 81 mg\nQuestion: What is the dose?\nAnswer:", "81 mg")
    assert everything("emrqa", tmp_path) == [pair] * 3
    documents = read_documents(CARDS["emrqa"], tmp_path, "train", as_released=True)
    assert len(documents) == 4 and {d.fields["document"] for d in documents} == {"11", "12", "record-3"}
    assert [d.left_out for d in documents if d.left_out] == [{"questions under titles that the card does not name": 1}]


def test_medbullets_in_columns(tmp_path):
    size = range(40)
    columns = {
        "link": {str(n): f"https://t.example/{n}" for n in size},
        "question": {str(n): f"Q{n}?" for n in size},
        **{f"op{letter}": {str(n): f"{letter}{n}" for n in size} for letter in "abcde"},
        "answer_idx": {str(n): "E" for n in size},
        "answer": {str(n): f"e{n}" for n in size},
        "explanation": {str(n): None for n in size},
    }
    put(tmp_path, CARDS["medbullets"], "test", json.dumps(columns))
    assert everything("medbullets", tmp_path) == sorted(
        (f"Q{n}?\nA. a{n}\nB. b{n}\nC. c{n}\nD. d{n}\nE. e{n}\nAnswer:", "E") for n in size
    )
    sizes = [len(read("medbullets", tmp_path, split)) for split in ("train", "validation", "test")]
    assert sum(sizes) == 40 and min(sizes) > 0


def test_headqa_numbers_questions_within_exams(tmp_path):
    def question(number, right, *answers):
        return {
            "qid": number,
            "qtext": f"Q{number}?",
            "ra": right,
            "answers": [{"aid": aid, "atext": text} for aid, text in answers],
            "image": "",
        }

    put(
        tmp_path,
        CARDS["headqa"],
        "test",
        json.dumps(
            {
                "version": "1.0",
                "language": "en",
                "exams": {
                    "Cuaderno_2016_1_B": {
                        "name": "Cuaderno_2016_1_B",
                        "year": "2016",
                        "category": "biologia",
                        "data": [
                            question("1", "3", (1, "x"), (2, "y"), (3, "z")),
                            question("2", 1, ("1", "x"), ("2", "y")),
                        ],
                    },
                    "Cuaderno_2016_1_E": {
                        "name": "Cuaderno_2016_1_E",
                        "data": [question("1", "7", ("7", "x"), ("4", "y"))],
                    },
                },
            }
        ),
    )
    assert read("headqa", tmp_path) == [
        ("Q1?\nA. x\nB. y\nC. z\nAnswer:", "C"),
        ("Q2?\nA. x\nB. y\nAnswer:", "A"),
        ("Q1?\nA. x\nB. y\nAnswer:", "A"),
    ]
    assert [e.example_id for e in read_split(CARDS["headqa"], tmp_path, "test")] == [
        "Cuaderno_2016_1_B/1",
        "Cuaderno_2016_1_B/2",
        "Cuaderno_2016_1_E/1",
    ]
