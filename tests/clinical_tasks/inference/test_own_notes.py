"""A user's own notes: asked as a corpus's are, without gold; answers put together again in the note's own offsets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from clinical_tasks import TaskCard, load_cards, read_split, split_long
from clinical_tasks.corpus.splits import read_documents
from clinical_tasks.inference.notes import brat_lines, note_example, note_result, read_notes
from clinical_tasks.pocket import CARDS, TASKS, write_pocket_corpus
from clinical_tasks.schema.documents import Document, Example
from clinical_tasks.schema.options import choices
from clinical_tasks.text_pairs.serialise import document_of

POCKET = {name: card for name, card in load_cards([CARDS]).items() if name in TASKS}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pocket")
    write_pocket_corpus(root, sizes={"train": 3, "validation": 1, "test": 4})
    return root


def record_of(card: TaskCard, document: Document) -> dict[str, Any]:
    """What a user would write of a released document."""
    if card.type in ("ner", "re"):
        entities = [
            {"key": m.key, "type": m.type, "start": m.start, "end": m.end, "ids": list(m.ids)}
            for m in document.mentions
        ]
        return {"id": document.doc_id, "text": document.text, "entities": entities}
    record = {name: value for name, value in document.fields.items() if name not in ("answer", "options")}
    if card.options is not None:
        record["options"] = [choice.text for choice in choices(card.options, document)]
    return {**record, "id": document.doc_id}


@pytest.mark.parametrize("name", sorted(POCKET))
def test_a_note_is_asked_as_the_corpus_asks_it_and_its_gold_answer_comes_back(
    name: str, corpus: Path, tmp_path: Path
) -> None:
    card = POCKET[name]
    released = {e.document: e for e in read_split(card, corpus, "test")}
    documents = [d for d in read_documents(card, corpus, "test") if d.doc_id in released]
    file = tmp_path / "notes.jsonl"
    file.write_text("\n".join(json.dumps(record_of(card, d)) for d in documents) + "\n\n")
    examples, problems = read_notes(file, card)
    assert not problems and len(examples) == len(documents) > 0
    for example in examples:
        gold = released[example.document]
        assert (example.input_text, example.options, example.example_id) == (
            gold.input_text,
            gold.options,
            gold.example_id,
        )
        if card.type not in ("ner", "re"):
            assert (
                gold.answer_text
                and not example.answer_text
                and gold.answer_text not in json.dumps(example.gold.get("label", ""))
            )
        result = note_result(card, [example], [gold.answer_text])
        if card.type == "ner":
            wanted = sorted((s["start"], -s["end"], s["type"]) for s in gold.gold["spans"])
            assert [(s["start"], -s["end"], s["type"]) for s in result["spans"]] == wanted and not result["unaligned"]
            text = document_of(example).text
            assert all(text[s["start"] : s["end"]] == s["text"] for s in result["spans"])
        elif card.type == "re":
            assert {(r["type"], r["head"], r["tail"]) for r in gold.gold["relations"]} <= {
                (r["type"], r["head"], r["tail"]) for r in result["relations"]
            }
        elif "options" in gold.gold:
            assert result["label"] == gold.gold["label"]
            assert (
                "choices" not in gold.gold
                or result["choice"] == gold.gold["choices"][gold.gold["options"].index(result["label"])]
            )
        else:
            assert result["text"] == gold.gold["references"][0]


def test_pieces_of_a_long_note_come_together_in_its_own_offsets(card) -> None:
    mine = card("ner")
    text = "\n\n".join(f"Plan {n}: aspirin for the\ncold cough." for n in range(12))
    whole = note_example(mine, {"id": "n", "text": text}, "here")
    pieces = split_long(whole, mine, lambda asked, _: len(asked) < 100)
    assert len(pieces) > 3
    answers = [
        "drug: aspirin\nproblem: cold cough\ndrug: never there" if "aspirin" in p.input_text else "none" for p in pieces
    ]
    answers[1] = "none"
    result = note_result(mine, pieces, answers)
    assert {s["text"] for s in result["spans"]} == {"aspirin", "cold cough"} and all(
        text[s["start"] : s["end"]] == s["text"] for s in result["spans"]
    )
    assert len({s["start"] for s in result["spans"]}) == len(result["spans"]) >= 2 * (len(pieces) - 1)
    assert "none" not in result["answer"].split("\n") and set(result["unaligned"]) == {"drug: never there"}
    assert note_result(mine, pieces, ["none"] * len(pieces)) == {"answer": "none", "spans": [], "unaligned": []}


def test_brat_files_read_back_to_the_spans(card, folder: Path, tmp_path: Path) -> None:
    mine = card("ner")
    text = "He took\nacetyl salicylic\nacid for cough."
    spans = [
        {"type": "Drug", "start": 8, "end": 29, "text": text[8:29]},
        {"type": "Problem", "start": 34, "end": 39, "text": "cough"},
    ]
    (folder / "a.txt").write_text(text)
    (folder / "a.ann").write_text(brat_lines({"spans": spans}))
    (document,) = read_documents(mine, tmp_path, "test")
    assert not document.mismatches
    assert [(m.type, m.start, m.end, m.fragments) for m in document.mentions] == [
        ("Drug", 8, 29, ((8, 24), (25, 29))),
        ("Problem", 34, 39, ((34, 39),)),
    ]


def test_text_files_alone_and_in_a_folder(card, tmp_path: Path) -> None:
    place = tmp_path / "notes"
    place.mkdir()
    for name in ("b", "a"):
        (place / f"{name}.txt").write_bytes(f"{name}: aspirin\r\ndaily".encode())
    (place / "other.ann").write_text("")
    for kind in ("ner", "summarization"):  # one field is enough
        examples, problems = read_notes(place, card(kind))
        assert not problems and [e.document for e in examples] == ["a", "b"]
        assert read_notes(place / "b.txt", card(kind)) == ([examples[1]], [])
    assert document_of(read_notes(place, card("ner"))[0][0]).text == "a: aspirin\r\ndaily", "line ends count"


RE_FAULTS: list[Any] = [
    {"type": "Drug", "start": 3, "end": 3},
    {"type": "", "start": 0, "end": 3},
    {"type": "Drug", "start": 0, "end": 99},
    {"type": "Drug", "start": True, "end": 3},
    {"start": 0, "end": 3},
    "Drug",
    {"type": "Drug", "start": -1, "end": 3},
    {"type": "Drug", "start": "0", "end": 3},
]


def test_everything_wrong_is_told_with_its_line_and_without_its_text(card, tmp_path: Path, canary: str) -> None:
    file = tmp_path / "notes.jsonl"
    lines = [
        f'{{"id": "{canary}", "text": "{canary}',
        f'"{canary}"',
        json.dumps({"text": canary}),
        json.dumps({"id": " ", "text": canary}),
        json.dumps({"id": "x"}),
        json.dumps({"id": "y", "text": 3}),
        json.dumps({"id": "z", "text": [canary]}),
        json.dumps({"id": 1, "text": canary}),
        json.dumps({"id": "1", "text": canary}),
        json.dumps({"id": True, "text": canary}),
    ]
    file.write_text("\n".join(lines))
    _, problems = read_notes(file, card("ner"))
    assert [p.split(": ")[0] for p in problems] == [f"{file}:{n}" for n in (1, 2, 3, 4, 5, 6, 7, 9, 10)]
    faulty = [{"id": n, "text": f"{canary} x", "entities": [fault]} for n, fault in enumerate(RE_FAULTS)]
    faulty += [
        {"id": "none", "text": canary},
        {"id": "twice", "text": canary, "entities": [{"key": "T1", "type": canary, "start": 0, "end": 3}] * 2},
    ]
    file.write_text("\n".join(map(json.dumps, faulty)))
    _, more = read_notes(file, card("re"))
    assert len(more) == len(faulty)
    concepts = card("re", relations={"level": "entity", "head": ["Drug"], "tail": ["Problem"]}, reader="pubtator")
    file.write_text(json.dumps({"id": 1, "text": canary, "entities": [{"type": "Drug", "start": 0, "end": 3}]}))
    _, missing = read_notes(file, concepts)
    assert "has no 'ids'" in missing[0]
    file.write_text(json.dumps({"id": 1, "premise": canary}))
    _, nli = read_notes(file, card("nli"))
    assert "has no 'hypothesis'" in nli[0]
    file.write_bytes(b'{"id": 1, "text": "\xff"}')
    absent, empty = tmp_path / "absent.jsonl", tmp_path / "empty"
    empty.mkdir()
    faults = (
        (file, "UTF-8"),
        (absent, "does not exist"),
        (empty, "has no notes"),
        (tmp_path / "x.pdf", "does not exist"),
        (tmp_path / "y.txt", "not exist"),
    )
    for path, wanted in faults:
        (problem,) = read_notes(path, card("ner"))[1]
        assert wanted in problem and str(path) in problem
        more.append(problem)
    assert not any(canary in p for p in [*problems, *more, *nli, *missing])


def test_a_question_takes_options_as_a_list_or_a_mapping(card) -> None:
    mine = card(
        "qa",
        options={"columns": ["a", "b"], "gold": "letter"},
        labels=None,
        input="{question}\n{options}\nAnswer:",
        answer="likelihood",
        columns={"question": "q", "answer": "a"},
    )
    wanted: list[Example] = []
    for options in (["red", "blue"], {"A": "red", "B": "blue"}):
        wanted.append(note_example(mine, {"id": "1", "question": "Which?", "options": options}, "here"))
    assert (
        wanted[0] == wanted[1]
        and wanted[0].input_text.startswith("Which?\nA. red\nB. blue\nAnswer:")
        and wanted[0].options == ("A", "B")
    )
    assert note_result(mine, [wanted[0]], ["B"]) == {"answer": "B", "label": "B", "choice": "blue"}
