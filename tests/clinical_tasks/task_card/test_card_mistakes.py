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
        "licence: missing; see docs/reference/data.md",
        "access: missing; see docs/reference/data.md",
        "name: must consist of letters, digits, _ and - (it names files and options); got 'bad name'",
        "reader: must be one of brat, pubtator, ",
        "unknown key 'splits.trian'; did you mean 'train'?",
        "splits.test.hold_out.fraction: must be > 0 and < 1 (0.1 holds out a tenth); got 2.0",
        "splits.test.hold_out.from: must be one of train, validation, test; got 'nowhere'",
        "published.test: must be a whole number, or a mapping; got 'many'",
        "metric: must be one of the metrics of type ner: span_f1_strict, ",
        "input: must show at least one field of the data; fields are text",
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
            "metric: must be one of the metrics of type ner: span_f1_strict, ",
        ),
        ("ner", {"extra_metrics": ["rouge1"]}, "extra_metrics: must be one of the metrics of type ner: "),
        ("ner", {"input": "{text} {txt}"}, "input: unknown field {txt}; fields are text; did you mean 'text'?"),
        ("ner", {"input": "{text} {text}"}, "input: needs {text} exactly once"),
        ("ner", {"reader": "csv"}, "reader: must be one of brat, pubtator, i2b2, "),
        ("ner", {"answer": "likelihood"}, "answer: a ner task has no options to compare"),
        ("ner", {"labels": {"A": "drug", "B": "Drug"}}, "labels: two labels have the same word"),
        ("ner", {"duplicates": "drop"}, "duplicates: must be one of set, discard, penalise; got 'drop'"),
        ("ner", {"splits": {"train": "a.txt"}}, "splits.test: missing"),
        ("ner", {"splits": {"test": "../a.txt"}}, "splits.test.files: '../a.txt' is outside the task's folder"),
        ("re", {"relations": {"levl": "entity"}}, "unknown key 'relations.levl'; did you mean 'level'?"),
        ("qa", {"columns": {"question": "q"}}, "columns.answer: missing"),
        (
            "qa",
            {"metric": "exact_match"},
            "metric: must be one of the metrics of type qa: accuracy, macro_f1; got 'exact_match'",
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
            "options.gold: must be one of letter, index0, index1, index, text, key; got 'indx0'; did you mean ",
        ),
        ("qa", {"labels": {"y": "yes", "n": "Yes"}}, "labels: all labels have the same word"),
        (
            "qa",
            {"reader": "squad", "reader_options": {"paraphrases": "some"}},
            "reader_options.paraphrases: must be one of first, all; got 'some'",
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
            "reader_options.quoting: must be true or false; got 'maybe'",
        ),
        (
            "summarization",
            {"reader": "brat"},
            "reader: must be one of jsonl, json, csv, tsv, squad, xlsx in a summarization task, which needs rows; got ",
        ),
        ("summarization", {"rouge_stemmer": "always"}, "rouge_stemmer: must be true or false; got 'always'"),
        (
            "summarization",
            {"type": "sumarization"},
            "type: must be one of ner, re, qa, nli, summarization; got 'sumarization'; ",
        ),
        ("summarization", {"reader": "cvs"}, "reader: must be one of brat, "),
        ("summarization", {"licence": ""}, "licence: missing; see docs/reference/data.md"),
        ("summarization", {"title": ["a"]}, "title: must be text; got a list"),
        ("summarization", {"answer": "likelyhood"}, "answer: must be one of likelihood, generation; got 'likelyhood'"),
        ("summarization", {"answer": "likelihood"}, "answer: there are no options to compare"),
        ("summarization", {"splits": "a.csv"}, "splits: must be a mapping of keys to values"),
        (
            "summarization",
            {"splits": {"test": 3.5}},
            "splits.test: must be text or a list, or a mapping; got 3.5",
        ),
        ("summarization", {"splits": {"test": 3}}, "splits.test: must be text or a list, or a mapping; got 3"),
        ("summarization", {"splits": {"test": ""}}, "splits.test: needs either files or hold_out"),
        (
            "summarization",
            {"splits": {"test": {"files": [True]}}},
            "splits.test.files: must be text; got True; write it in quotes",
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
            "splits.train.ids_from: '/etc/ids' is outside the task's folder",
        ),
        (
            "summarization",
            {"splits": {"test": {"hold_out": {"from": "train", "fraction": 0.1}}}},
            "splits.test.hold_out.from: must be a split with files; got 'train'",
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
            "published.test.documents: must be a whole number; got 'two'",
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
            "reader_options.delimiter: must be one character, for example ';'; got ';;'",
        ),
        ("summarization", {"reader_options": {"header": "a"}}, "reader_options.header: must be a list; got 'a'"),
        ("summarization", {"reader_options": "quoting"}, "reader_options: must be a mapping of keys to values"),
        (
            "qa",
            {"reader": "json", "reader_options": {"orient": "rows"}},
            "reader_options.orient: must be one of list, by_id, columns; got 'rows'",
        ),
        ("qa", {"reader_options": {"header": ["a"]}}, "unknown key 'reader_options.header'; no keys are known there"),
        ("qa", {"columns": {"question": "q", "answer": 2.5}}, "columns.answer: must be text or a list; got 2.5"),
        (
            "qa",
            {"columns": {"question": "q", "answer": "a", "options": "o"}},
            "columns.options: this name is reserved",
        ),
        ("qa", {"labels": ["yes", "no"]}, "labels: must be a mapping of keys to values"),
        ("qa", {"labels": {"y": "yes", "n": ["no"]}}, "labels.n: must be text; got a list"),
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
            "reader_options.events: must be one of relations, argument",
        ),
        (
            "ner",
            {"reader": "i2b2", "reader_options": {"types": "x"}},
            "reader_options.types: must be one of concept, assertion; got 'x'",
        ),
        (
            "ner",
            {"triggers": ["Drgu"]},
            "triggers: must be one of the card's labels: Drug, Problem; got 'Drgu'; did you mean 'Drug'",
        ),
        ("ner", {"labels": {"A": ""}}, "labels: two labels have the same word, or one has an empty word"),
        ("ner", {"ignore_labels": {"a": 1}}, "ignore_labels: must be text or a list; got a mapping"),
        ("ner", {"columns": {"a": "b"}}, "columns: unused by reader brat"),
        ("re", {"relations": {"level": "document"}}, "relations.level: must be one of mention, entity; got 'document'"),
        ("re", {"relations": {"symmetric": 1}}, "relations.symmetric: must be true or false; got 1"),
        ("re", {"relations": "entity"}, "relations: must be a mapping of keys to values"),
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
    assert all("a number must have at most 60 digits" in problem and "fff" not in problem for problem in told)


def test_true_and_false_as_words_want_quotes(tmp_path):
    path = tmp_path / "card.yaml"
    path.write_text("extends: pubmedqa\nlabels: {yes: true, no: no, maybe: maybe}\n")
    with pytest.raises(CardError, match="labels.yes: must be text; got True; write it in quotes"):
        load_card(path)
