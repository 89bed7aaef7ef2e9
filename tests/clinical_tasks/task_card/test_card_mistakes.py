"""Mistakes in cards: all of them at once, each told once, no long value quoted."""

from __future__ import annotations

import pickle

import pytest

from clinical_tasks import CardError, load_card


def test_all_problems_come_at_once_with_suggestions(tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_text("""
name: bad name
type: ner
reader: brta
lables: {Drug: drug}
splits:
  trian: {files: [a.txt]}
  test: {hold_out: {from: nowhere, fraction: 2.0}}
input: "no field"
metric: span_f1
published: {test: many}
""")
    with pytest.raises(CardError) as caught:
        load_card(path)
    problems = caught.value.problems
    expected = [
        "unknown key 'lables'; did you mean 'labels'?",
        "licence: missing; add it",
        "access: missing; add it",
        "name: 'bad name' holds characters other than",
        "reader: 'brta' is none of brat, pubtator, ",
        "unknown key 'splits.trian'; did you mean 'train'?",
        "splits.test.hold_out.fraction: 2.0 is not between 0 and 1; 0.1 holds out a tenth",
        "splits.test.hold_out.from: 'nowhere' is none of train, validation, test",
        "published.test: expected a whole number, or keys and values, found 'many'",
        "metric: 'span_f1' is none of the metrics of type ner: span_f1_strict, ",
        "input: shows no field of the data; fields are text",
        "input: needs {text} exactly once",
    ]
    for start in expected:
        assert sum(problem.startswith(start) for problem in problems) == 1, (start, problems)
    assert len(problems) == len(expected), problems
    assert str(caught.value).startswith(f"{path}: 12 problems: ") and "\n" not in str(caught.value)
    copy = pickle.loads(pickle.dumps(caught.value))
    assert copy.problems == problems and str(copy) == str(caught.value)


@pytest.mark.parametrize(
    ("kind", "changes", "problem"),
    [
        (
            "ner",
            {"metric": "span_f1_stict"},
            "metric: 'span_f1_stict' is none of the metrics of type ner: span_f1_strict, ",
        ),
        ("ner", {"extra_metrics": ["rouge1"]}, "extra_metrics: 'rouge1' is none of the metrics of type ner: "),
        ("ner", {"input": "{text} {txt}"}, "input: unknown field {txt}; fields are text; did you mean 'text'?"),
        ("ner", {"input": "{text} {text}"}, "input: needs {text} exactly once"),
        ("ner", {"reader": "csv"}, "reader: 'csv' reads no annotations"),
        ("ner", {"answer": "likelihood"}, "answer: a ner task has no options to compare"),
        ("ner", {"labels": {"A": "drug", "B": "Drug"}}, "labels: two labels are written with the same word"),
        ("ner", {"duplicates": "drop"}, "duplicates: 'drop' is none of set, discard, penalise"),
        ("ner", {"splits": {"train": "a.txt"}}, "splits.test: missing"),
        ("ner", {"splits": {"test": "../a.txt"}}, "splits.test.files: '../a.txt' leads out of the task's folder"),
        ("re", {"relations": {"levl": "entity"}}, "unknown key 'relations.levl'; did you mean 'level'?"),
        ("qa", {"columns": {"question": "q"}}, "columns.answer: missing"),
        (
            "qa",
            {"metric": "exact_match"},
            "metric: 'exact_match' is none of the metrics of type qa: accuracy, macro_f1",
        ),
        (
            "qa",
            {"labels": None, "metric": "exact_match", "answer": "likelihood"},
            "answer: there are no options to compare",
        ),
        ("qa", {"labels": None, "options": {"columns": "o"}, "input": "{question} {options}"}, "options.gold: missing"),
        (
            "qa",
            {"labels": None, "options": {"columns": "o", "gold": "indx0"}, "input": "{question} {options}"},
            "options.gold: 'indx0' is none of letter, index0, index1, index, text, key; did you mean 'index0'?",
        ),
        ("qa", {"labels": {"y": "yes", "n": "Yes"}}, "labels: all labels are written with the same word"),
        (
            "qa",
            {"reader": "squad", "reader_options": {"paraphrases": "some"}},
            "reader_options.paraphrases: 'some' is none of first, all",
        ),
        ("qa", {"labels": None, "options": {"columns": "o", "gold": "letter"}}, "input: does not show the options"),
        ("nli", {"labels": None}, "labels: missing"),
        (
            "summarization",
            {"reader_options": {"delimeter": ";"}},
            "unknown key 'reader_options.delimeter'; did you mean 'delimiter'?",
        ),
        (
            "summarization",
            {"reader_options": {"quoting": "maybe"}},
            "reader_options.quoting: expected true or false, found 'maybe'",
        ),
        ("summarization", {"reader": "brat"}, "reader: 'brat' reads no rows"),
        ("summarization", {"rouge_stemmer": "always"}, "rouge_stemmer: expected true or false, found 'always'"),
        (
            "summarization",
            {"type": "sumarization"},
            "type: 'sumarization' is none of ner, re, qa, nli, summarization; ",
        ),
        ("summarization", {"reader": "cvs"}, "reader: 'cvs' is none of brat, "),
        ("summarization", {"licence": ""}, "licence: missing; add it"),
        ("summarization", {"title": ["a"]}, "title: expected text, found list"),
        ("summarization", {"answer": "likelyhood"}, "answer: 'likelyhood' is none of likelihood, generation"),
        ("summarization", {"answer": "likelihood"}, "answer: there are no options to compare"),
        ("summarization", {"splits": "a.csv"}, "splits: expected keys and values"),
        (
            "summarization",
            {"splits": {"test": 3.5}},
            "splits.test: expected text or a list, or keys and values, found 3.5",
        ),
        ("summarization", {"splits": {"test": 3}}, "splits.test: expected text or a list, or keys and values, found 3"),
        ("summarization", {"splits": {"test": ""}}, "splits.test: needs either files or hold_out"),
        (
            "summarization",
            {"splits": {"test": {"files": [True]}}},
            "splits.test.files: expected text, found True; write it in quotes",
        ),
        ("summarization", {"splits": {"test": {"fils": "a"}, "train": "a"}}, "unknown key 'splits.test.fils'; did you"),
        ("summarization", {"splits": {"test": "a", "train": {"ids_from": "b"}}}, "splits.train: needs either files or"),
        (
            "summarization",
            {"splits": {"test": "a", "train": {"files": "a", "hold_out": {"from": "test", "fraction": 0.5}}}},
            "splits.train: needs either files or hold_out",
        ),
        (
            "summarization",
            {"splits": {"test": "a", "train": {"files": "a", "ids_from": "/etc/ids"}}},
            "splits.train.ids_from: '/etc/ids' leads out of the task's folder",
        ),
        (
            "summarization",
            {"splits": {"test": {"hold_out": {"from": "train", "fraction": 0.1}}}},
            "splits.test.hold_out.from: 'train' is no split with files",
        ),
        (
            "summarization",
            {"splits": {"train": "a", "test": {"hold_out": {"from": "train"}}}},
            "splits.test.hold_out.fraction: missing; 0.1 holds out a tenth",
        ),
        (
            "summarization",
            {"splits": {"train": "a", "test": {"hold_out": {"from": "train", "fraction": 0.1, "seed": 1}}}},
            "unknown key 'splits.test.hold_out.seed'; keys: from, fraction",
        ),
        (
            "summarization",
            {
                "splits": {
                    "train": "a",
                    "validation": {"hold_out": {"from": "train", "fraction": 0.5}},
                    "test": {"hold_out": {"from": "train", "fraction": 0.5}},
                }
            },
            "splits: nothing is left of 'train'",
        ),
        ("summarization", {"published": {"tset": 3}}, "unknown key 'published.tset'; did you mean 'test'?"),
        (
            "summarization",
            {"published": {"test": {"documents": "two"}}},
            "published.test.documents: expected a whole number, found 'two'",
        ),
        (
            "summarization",
            {"published": {"test": {"pages": 2}}},
            "unknown key 'published.test.pages'; keys: documents, ",
        ),
        ("summarization", {"triggers": ["Drug"]}, "triggers: unused in a summarization task"),
        (
            "summarization",
            {"reader_options": {"delimiter": ";;"}},
            "reader_options.delimiter: ';;' is not one character",
        ),
        ("summarization", {"reader_options": {"header": "a"}}, "reader_options.header: expected a list, found 'a'"),
        ("summarization", {"reader_options": "quoting"}, "reader_options: expected keys and values"),
        (
            "qa",
            {"reader": "json", "reader_options": {"orient": "rows"}},
            "reader_options.orient: 'rows' is none of list, by_id, columns",
        ),
        ("qa", {"reader_options": {"header": ["a"]}}, "unknown key 'reader_options.header'; no keys are known there"),
        ("qa", {"columns": {"question": "q", "answer": 2.5}}, "columns.answer: expected text or a list, found 2.5"),
        (
            "qa",
            {"columns": {"question": "q", "answer": "a", "options": "o"}},
            "columns.options: the name is taken",
        ),
        ("qa", {"labels": ["yes", "no"]}, "labels: expected keys and values"),
        ("qa", {"labels": {"y": "yes", "n": ["no"]}}, "labels.n: expected text, found list"),
        (
            "qa",
            {"options": {"columns": "o", "gold": "letter"}, "input": "{question} {options}"},
            "labels: unused beside options",
        ),
        (
            "qa",
            {"labels": None, "options": {"columns": [], "gold": "letter"}, "input": "{question} {options}"},
            "options.columns: missing; name the columns",
        ),
        (
            "qa",
            {
                "labels": None,
                "options": {"columns": "o", "gold": "letter", "layout": "{text}"},
                "input": "{question} {options}",
            },
            "options.layout: needs {letter} and {text}",
        ),
        (
            "qa",
            {
                "labels": None,
                "options": {"columns": "o", "gold": "letter", "layuot": "x"},
                "input": "{question} {options}",
            },
            "unknown key 'options.layuot'; did you mean 'layout'?",
        ),
        (
            "ner",
            {"reader_options": {"events": "roles"}},
            "reader_options.events: 'roles' is none of relations, argument",
        ),
        (
            "ner",
            {"reader": "i2b2", "reader_options": {"types": "x"}},
            "reader_options.types: 'x' is none of concept, assertion",
        ),
        (
            "ner",
            {"triggers": ["Drgu"]},
            "triggers: 'Drgu' is none of the card's labels: Drug, Problem; did you mean 'Drug'",
        ),
        ("ner", {"labels": {"A": ""}}, "labels: two labels are written with the same word, or one with none"),
        ("ner", {"ignore_labels": {"a": 1}}, "ignore_labels: expected text or a list, found dict"),
        ("ner", {"columns": {"a": "b"}}, "columns: unused by reader brat"),
        ("re", {"relations": {"level": "document"}}, "relations.level: 'document' is none of mention, entity"),
        ("re", {"relations": {"symmetric": 1}}, "relations.symmetric: expected true or false, found 1"),
        ("re", {"relations": "entity"}, "relations: expected keys and values"),
        ("re", {"triggers": ["Treats"]}, "triggers: unused in a re task"),
    ],
)
def test_each_mistake_is_one_problem(card, kind, changes, problem):
    with pytest.raises(CardError) as caught:
        card(kind, **changes)
    assert [text for text in caught.value.problems if text.startswith(problem)], caught.value.problems
    assert len(caught.value.problems) == 1


def test_what_lies_between_keys_is_told_beside_what_is_wrong_with_one(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(
        "extends: bc5cdr_entities\nname: mine\nlicence: [a]\nlabels: {Chemical: {a: b}}\ntriggers: [Drug]\n"
        "splits: {test: {hold_out: {from: train, fraction: 3}}}\nmetric: f1\n"
    )
    with pytest.raises(CardError) as caught:
        load_card(path)
    keys = [problem.partition(":")[0] for problem in caught.value.problems]
    # whether Drug is a label is not known while the labels are wrong
    assert sorted(keys) == [
        "labels.Chemical",
        "licence",
        "metric",
        "splits.test.hold_out.fraction",
        "splits.test.hold_out.from",
    ]


def test_a_long_value_is_never_quoted(tmp_path):
    path, long = tmp_path / "c.yaml", "Zebulon Quackenbush " * 5
    path.write_text(
        f"extends: pubmedqa\nname: {long}\ntype: {long}\nmetric: {long}\npublished: {{test: {long}}}\n"
        f"columns: {{answer: {{a: {long}}}}}\nsplits: {{test: /{long}}}\nextra_metrics: [{long}]\n"
    )
    with pytest.raises(CardError) as caught:
        load_card(path)
    assert len(caught.value.problems) >= 5 and "Zebulon" not in "".join(caught.value.problems)


@pytest.mark.parametrize("key", ["{}: 1", "splits: {{'{}': a.csv}}", "reader_options: {{'{}': 1}}", "input: '{{{}}}'"])
def test_a_long_key_is_never_quoted(tmp_path, key):
    words = "the_patient_was_admitted" if key.startswith("input") else "The patient. Was admitted. "
    path = tmp_path / "card.yaml"
    path.write_text(f"extends: pubmedqa\n{key.format(words * 5)}\n")
    with pytest.raises(CardError) as caught:
        load_card(path)
    assert "patient" not in str(caught.value) and "characters>" in str(caught.value)


def test_numbers_of_thousands_of_digits_are_told_and_not_quoted(tmp_path):
    path = tmp_path / "card.yaml"
    digits = "0x" + "f" * 5000
    path.write_text(f"extends: pubmedqa\ntitle: {digits}\nsplits:\n  test: {digits}\npublished: {{test: {digits}}}\n")
    with pytest.raises(CardError) as caught:
        load_card(path)
    told = caught.value.problems
    assert [problem.partition(":")[0] for problem in told] == ["line 2", "line 4", "line 5"]
    assert all("a number of more than 60 digits" in problem and "fff" not in problem for problem in told)


def test_true_and_false_as_words_want_quotes(tmp_path):
    path = tmp_path / "card.yaml"
    path.write_text("extends: pubmedqa\nlabels: {yes: true, no: no, maybe: maybe}\n")
    with pytest.raises(CardError, match="labels.yes: expected text, found True; write it in quotes"):
        load_card(path)
