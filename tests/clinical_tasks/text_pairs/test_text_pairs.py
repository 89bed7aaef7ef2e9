"""Documents to text and back: serialisation, parsing, round trips of awkward mentions."""

from __future__ import annotations

import json

import pytest

from clinical_tasks import parse_answer, read_split, round_trip, score

CID = {
    "reader": "pubtator",
    "splits": {"test": "a.txt"},
    "labels": {"CID": "induces"},
    "relations": {"level": "entity", "head": "Chemical", "tail": "Disease"},
}


def one(card, root):
    (example,) = read_split(card, root, "test")
    json.dumps(example.gold)
    return example


def test_mentions_are_written_in_text_order_with_repeats(card, brat, tmp_path):
    brat(
        "a",
        "Pain: aspirin.\nchest\npain, pain",
        "T3\tProblem 15 25\tchest pain\nT1\tDrug 6 13\taspirin\n"
        "T4\tProblem 27 31\tpain\nT2\tProblem 0 4\tPain\nT5\tOther 0 4\tPain\n",
    )
    example = one(card("ner"), tmp_path)
    assert example.input_text == "Pain: aspirin.\nchest\npain, pain\nMentions:"
    assert example.answer_text == "problem: Pain\ndrug: aspirin\nproblem: chest pain\nproblem: pain"
    prediction = parse_answer(card("ner"), example, example.answer_text)
    assert [(s["start"], s["end"]) for s in prediction["spans"]] == [(0, 4), (6, 13), (15, 25), (27, 31)]
    assert prediction["unaligned"] == []


def test_without_labels_every_type_is_used_under_its_own_name(card, brat, tmp_path):
    brat("a", "aspirin 5 mg: daily", "T1\tDrug-X 0 7\taspirin\nT2\tDose 8 19\t5 mg: daily\n")
    mine = card("ner", labels=None)
    example = one(mine, tmp_path)
    assert example.answer_text == "Drug-X: aspirin\nDose: 5 mg: daily"
    assert round_trip(mine, [example])["span_f1_strict"] == 1.0


def test_discontinuous_duplicate_and_empty_notes_come_back(card, brat, tmp_path):
    brat("a", "left arm and leg pain", "T1\tProblem 0 8;17 21\tleft arm pain\nT2\tProblem 0 8;17 21\tleft arm pain\n")
    brat("b", "well", "")
    examples = read_split(card("ner"), tmp_path, "test")
    assert [example.answer_text for example in examples] == ["problem: left arm and leg pain", "none"]
    result = round_trip(card("ner"), examples)
    assert result["span_f1_strict"] == 1.0 and result["n_gold"] == 1


def test_lines_that_are_no_mention_are_unaligned(card, brat, tmp_path):
    brat("a", "aspirin", "T1\tDrug 0 7\taspirin\n")
    example = one(card("ner"), tmp_path)
    prediction = parse_answer(
        card("ner"), example, "DRUG : Aspirin\nfood: aspirin\ndrug:\n drug: aspirin \nnone\n\nnonsense"
    )
    assert [(s["type"], s["start"], s["end"]) for s in prediction["spans"]] == [("Drug", 0, 7)]
    assert prediction["unaligned"] == ["food: aspirin", "drug:", "nonsense", "drug: aspirin"]


def test_a_label_word_with_colon_and_a_longer_one_win(card, brat, tmp_path):
    brat("a", "x y", "T1\tA 0 1\tx\nT2\tB 2 3\ty\n")
    mine = card("ner", labels={"A": "drug", "B": "drug: old"})
    example = one(mine, tmp_path)
    assert example.answer_text == "drug: x\ndrug: old: y"
    assert round_trip(mine, [example])["span_f1_strict"] == 1.0


def test_relations_survive_separators_newlines_and_repeats(card, brat, tmp_path):
    text = "a | b helps chest\npain. a | b helps chest\npain. rash."
    second = text.index("a | b", 3)
    brat(
        "a",
        text,
        f"T1\tDrug 0 5\ta | b\nT2\tProblem 12 22\tchest pain\nT3\tDrug {second} {second + 5}\ta | b\n"
        f"T4\tProblem {second + 12} {second + 22}\tchest pain\nT5\tProblem 48 52\trash\n"
        "R1\tTreats Arg1:T1 Arg2:T2\nR2\tTreats Arg1:T3 Arg2:T4\nR3\tCauses Arg1:T3 Arg2:T5\n",
    )
    mine = card("re", input="{text}\n{entities}\nRelations:")
    example = one(mine, tmp_path)
    assert example.answer_text == "a | b | treats | chest pain\na | b | treats | chest pain\na | b | causes | rash"
    assert "Drug: a | b\nProblem: chest pain\nDrug: a | b" in example.input_text
    assert parse_answer(mine, example, example.answer_text)["relations"] == [
        {"type": "Treats", "head": "T1", "tail": "T2"},
        {"type": "Treats", "head": "T3", "tail": "T4"},
        {"type": "Causes", "head": "T3", "tail": "T5"},
    ]
    assert round_trip(mine, [example])["relation_f1"] == 1.0


def test_the_pair_of_one_sentence_beats_a_closer_one_across_a_border(card, brat, tmp_path):
    brat(
        "a",
        "aspirin 5 mg every day for pain. aspirin stopped.",
        "T1\tDrug 0 7\taspirin\nT2\tProblem 27 31\tpain\nT3\tDrug 33 40\taspirin\nR1\tTreats Arg1:T1 Arg2:T2\n",
    )
    example = one(card("re"), tmp_path)
    assert parse_answer(card("re"), example, "aspirin | treats | pain")["relations"] == [
        {"type": "Treats", "head": "T1", "tail": "T2"}
    ]


def test_relation_lines_that_name_nothing_are_unaligned(card, brat, tmp_path):
    brat("a", "aspirin pain", "T1\tDrug 0 7\taspirin\nT2\tProblem 8 12\tpain\nR1\tTreats Arg1:T1 Arg2:T2\n")
    example = one(card("re"), tmp_path)
    lines = ["Aspirin | TREATS | pain", "aspirin | treats | pain", "aspirin | heals | pain", "aspirin | pain"]
    prediction = parse_answer(card("re"), example, "\n".join(lines))
    assert len(prediction["relations"]) == 1
    assert prediction["unaligned"] == ["aspirin | treats | pain", "aspirin | heals | pain", "aspirin | pain"]
    only_drugs = card("re", relations={"tail": "Drug"})
    assert parse_answer(only_drugs, example, "aspirin | treats | pain")["relations"] == []


def test_concepts_are_written_by_an_unambiguous_text_and_read_back(card, folder, tmp_path):
    # "AB" names two diseases; "alpha beta" only the first. The composite's parts name D3 and D4 singly. X is also a
    # disease's text.
    text = "AB from X. alpha beta. renal and liver failure. X"
    spans = [
        (0, 2, "Disease", "D1"),
        (0, 2, "Disease", "D2"),
        (8, 9, "Chemical", "C1"),
        (11, 21, "Disease", "D1"),
        (23, 46, "Disease", "D3|D4\trenal failure|liver failure"),
        (48, 49, "Disease", "D5"),
    ]
    lines = [f"7\t{start}\t{end}\t{text[start:end]}\t{kind}\t{ids}" for start, end, kind, ids in spans]
    (folder / "a.txt").write_text("\n".join([f"7|t|{text}", *lines, "7\tCID\tC1\tD1", "7\tCID\tC1\tD4"]))
    mine = card("re", **CID)
    example = one(mine, tmp_path)
    assert example.answer_text == "X | induces | alpha beta\nX | induces | liver failure"
    assert round_trip(mine, [example])["relation_f1"] == 1.0
    # An ambiguous text means all its concepts; case does not matter; what is no mention is a false positive.
    prediction = parse_answer(mine, example, "x | induces | ab\nX | induces | rash")
    assert [(r["head"], r["tail"]) for r in prediction["relations"]] == [("C1", "D1"), ("C1", "D2")]
    assert prediction["unaligned"] == ["X | induces | rash"]
    assert score(mine, [example], ["x | induces | ab\nX | induces | rash"])["relation_precision"] == pytest.approx(
        1 / 3
    )


def test_choices_are_read_from_what_models_write(card, folder, tmp_path):
    (folder / "test.jsonl").write_text(json.dumps({"q": "Q", "o": ["a rash", "No pain"], "a": "B"}))
    letters = card("qa", options={"columns": "o", "gold": "letter"}, labels=None, input="{question}\n{options}")
    example = one(letters, tmp_path)
    answers = [
        "B",
        "b",
        " B. No pain",
        "(B)",
        "**B**",
        "no pain.",
        "The answer is B",
        "It is a mistake",
        "A painful one",
        "",
        "C",
    ]
    assert [parse_answer(letters, example, answer)["label"] for answer in answers] == ["B"] * 7 + [None] * 4
    (folder / "test.jsonl").write_text('{"q": "Q", "a": "y"}')
    words = card("qa")
    example = one(words, tmp_path)
    answers = ["Yes", "yes, because no", "Maybe.", "I think no", "nothing", "yes or no?", "not yes and not no"]
    assert [parse_answer(words, example, answer)["label"] for answer in answers] == [
        "yes",
        "yes",
        "maybe",
        "no",
        None,
        "yes",
        None,
    ]


def test_a_label_that_begins_with_another_is_read_whole(card, folder, tmp_path):
    (folder / "test.jsonl").write_text('{"q": "Q", "a": "b"}')
    mine = card("qa", labels={"y": "yes", "b": "yes in part"})
    example = one(mine, tmp_path)
    assert [parse_answer(mine, example, text)["label"] for text in ("Yes in part, I think", "Yes, in full")] == [
        "yes in part",
        "yes",
    ]


def test_options_are_empty_where_the_answer_is_generated(card, folder, tmp_path):
    (folder / "test.jsonl").write_text('{"q": "Q", "a": "y"}')
    assert one(card("qa"), tmp_path).options == ("yes", "no", "maybe")
    generated = card("qa", answer="generation")
    example = one(generated, tmp_path)
    assert example.options == () and score(generated, [example], ["Yes."])["accuracy"] == 1.0


def test_free_answers_keep_all_references(card, folder, tmp_path):
    (folder / "test.jsonl").write_text('{"q": "Q", "a": ["the left arm", "arm"]}')
    mine = card("qa", labels=None, metric="exact_match")
    example = one(mine, tmp_path)
    assert example.answer_text == "the left arm" and example.gold == {"references": ["the left arm", "arm"]}
    assert score(mine, [example], ["An arm!"]) == {
        "token_f1": 1.0,
        "exact_match": 1.0,
        "n_examples": 1.0,
        "n_empty": 0.0,
    }
