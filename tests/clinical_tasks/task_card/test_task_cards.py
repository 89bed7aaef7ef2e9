"""Cards: all problems at once, suggestions, YAML's traps, inheritance, override, fingerprint."""

from __future__ import annotations

import pickle

import pytest

from clinical_tasks import CardError, load_card, load_cards

EMBEDDED = {"pubmedqa", "bc5cdr_entities", "bc5cdr_cid", "mts_dialog", "brat_entities", "brat_relations"}
EMBEDDED |= {
    "i2b2_2009_medications",
    "i2b2_2010_concepts",
    "i2b2_2010_relations",
    "i2b2_2012_events",
    "n2c2_2018_entities",
    "n2c2_2018_relations",
    "ncbi_disease",
    "chemprot",
    "ddi_2013",
    "n2c2_2022_sdoh_entities",
    "n2c2_2022_sdoh_relations",
    "uf_opioid_entities",
    "uf_opioid_relations",
}
EMBEDDED |= {
    "medqa",
    "medmcqa",
    "emrqa",
    "mednli",
    "bionli",
    "scitail",
    "mimic_cxr_impressions",
    "meqsum",
    "medbullets",
    "headqa",
    "scinli",
    "radnli",
    "aci_bench",
    "probsum",
}


def test_embedded_cards_load_and_state_their_source():
    cards = load_cards()
    assert set(cards) == EMBEDDED
    for name, card in cards.items():
        assert card.path.name == f"{name}.yaml"
        assert card.licence and card.access and card.citation and card.instruction and card.protocol
    assert list(cards["pubmedqa"].labels) == ["yes", "no", "maybe"]
    assert cards["bc5cdr_cid"].folder == cards["bc5cdr_entities"].folder == "bc5cdr"
    assert cards["pubmedqa"].answer == "likelihood" and cards["mts_dialog"].answer == "generation"


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
        "lables: unknown key (did you mean 'labels'?)",
        "licence: missing",
        "access: missing",
        "name: holds characters other than",
        "reader: unknown value 'brta' (did you mean 'brat'?)",
        "splits.trian: unknown value 'trian' (did you mean 'train'?)",
        "splits.test.hold_out.fraction: not between 0 and 1",
        "splits.test.hold_out.from: 'nowhere' is no split with files",
        "published.test: not a mapping",
    ]
    for start in expected:
        assert sum(problem.startswith(start) for problem in problems) == 1, (start, problems)
    assert len(problems) == len(expected)
    assert str(caught.value).startswith(f"{path}: 9 problems: ") and "\n" not in str(caught.value)
    copy = pickle.loads(pickle.dumps(caught.value))
    assert copy.problems == problems and str(copy) == str(caught.value)


@pytest.mark.parametrize(
    ("kind", "changes", "problem"),
    [
        (
            "ner",
            {"metric": "span_f1_stict"},
            "metric: unknown for type ner: 'span_f1_stict' (did you mean 'span_f1_strict'?)",
        ),
        ("ner", {"extra_metrics": ["rouge1"]}, "extra_metrics: unknown for type ner"),
        ("ner", {"input": "{text} {txt}"}, "input: unknown field {txt} (did you mean 'text'?)"),
        ("ner", {"input": "{text} {text}"}, "input: needs {text} exactly once"),
        ("ner", {"reader": "csv"}, "reader: 'csv' reads no annotations"),
        ("ner", {"answer": "likelihood"}, "answer: a ner task has no options to compare"),
        ("ner", {"labels": {"A": "drug", "B": "Drug"}}, "labels: two labels are written with the same word"),
        ("ner", {"duplicates": "drop"}, "duplicates: unknown value 'drop'"),
        ("ner", {"splits": {"train": "a.txt"}}, "splits.test: missing"),
        ("ner", {"splits": {"test": "../a.txt"}}, "splits.test.files: '../a.txt' leads out of the task's folder"),
        ("re", {"relations": {"levl": "entity"}}, "relations.levl: unknown key (did you mean 'level'?)"),
        ("qa", {"columns": {"question": "q"}}, "columns.answer: missing"),
        ("qa", {"metric": "exact_match"}, "metric: unknown for type qa"),
        (
            "qa",
            {"labels": None, "metric": "exact_match", "answer": "likelihood"},
            "answer: there are no options to compare",
        ),
        ("qa", {"labels": None, "options": {"columns": "o"}, "input": "{question} {options}"}, "options.gold: missing"),
        (
            "qa",
            {"labels": None, "options": {"columns": "o", "gold": "indx0"}, "input": "{question} {options}"},
            "options.gold: unknown value 'indx0' (did you mean 'index0'?)",
        ),
        ("qa", {"labels": {"y": "yes", "n": "Yes"}}, "labels: all labels are written with the same word"),
        (
            "qa",
            {"reader": "squad", "reader_options": {"paraphrases": "some"}},
            "reader_options.paraphrases: unknown value 'some'",
        ),
        ("qa", {"labels": None, "options": {"columns": "o", "gold": "letter"}}, "input: does not show the options"),
        ("nli", {"labels": None}, "labels: missing"),
        (
            "summarization",
            {"reader_options": {"delimeter": ";"}},
            "reader_options.delimeter: unknown option (did you mean 'delimiter'?)",
        ),
        ("summarization", {"reader_options": {"quoting": "yes"}}, "reader_options.quoting: of the wrong kind"),
        ("summarization", {"reader": "brat"}, "reader: 'brat' reads no rows"),
        ("summarization", {"rouge_stemmer": "on"}, "rouge_stemmer: not true or false"),
    ],
)
def test_each_mistake_is_one_problem(card, kind, changes, problem):
    with pytest.raises(CardError) as caught:
        card(kind, **changes)
    assert [text for text in caught.value.problems if text.startswith(problem)], caught.value.problems
    assert len(caught.value.problems) == 1


def test_yes_and_no_are_words(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("extends: pubmedqa\nname: mine\nlabels: {yes: yes, no: no, off: 2020-01-01}\n")
    assert load_card(path).labels == {"yes": "yes", "no": "no", "off": "2020-01-01"}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("name: a\nmetric: x\nname: b\n", "line 3: key 'name' is given twice"),
        ("splits:\n  test: a\n  test: b\n", "line 3: key 'test' is given twice"),
        ("name: [a\ntype: b\n", "line 2: not YAML"),
        ("- a\n", "not a mapping of keys"),
        ("extends: pubmedqaa\n", "extends: no embedded card 'pubmedqaa' (did you mean 'pubmedqa'?)"),
    ],
)
def test_what_is_not_a_card(tmp_path, text, problem):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(CardError) as caught:
        load_card(path)
    assert caught.value.problems[0].startswith(problem)


def test_a_missing_card_and_a_missing_directory_are_card_errors(tmp_path):
    with pytest.raises(CardError, match="cannot be opened"):
        load_card(tmp_path / "gone.yaml")
    with pytest.raises(CardError, match="no such directory of cards"):
        load_cards([tmp_path / "gone"])


def test_extends_replaces_top_level_keys_and_brings_its_own_folder(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("extends: brat_entities\nname: my_notes\nlicence: mine\nsplits: {test: '*.txt'}\n")
    mine, base = load_card(path), load_cards()["brat_entities"]
    assert (mine.name, mine.folder, mine.licence, list(mine.splits)) == ("my_notes", "my_notes", "mine", ["test"])
    path.write_text("extends: bc5cdr_entities\nname: my_abstracts\n")
    assert load_card(path).folder == "my_abstracts"
    assert (mine.input, mine.metric, mine.instruction) == (base.input, base.metric, base.instruction)


def test_user_cards_override_by_name_and_a_name_twice_is_a_problem(tmp_path):
    (tmp_path / "a.yaml").write_text("extends: pubmedqa\nname: pubmedqa\ntitle: mine\n")
    cards = load_cards([tmp_path])
    assert cards["pubmedqa"].title == "mine" and set(cards) == EMBEDDED
    (tmp_path / "b.yaml").write_text("extends: pubmedqa\nname: pubmedqa\n")
    (tmp_path / "c.yaml").write_text("name: c\n")
    with pytest.raises(CardError) as caught:
        load_cards([tmp_path])
    assert any("name 'pubmedqa' is also that of a.yaml" in problem for problem in caught.value.problems)
    assert any(problem.startswith(f"{tmp_path / 'c.yaml'}: type: missing") for problem in caught.value.problems)


def test_fingerprint_is_of_the_content(tmp_path):
    def fingerprint(name, text):
        path = tmp_path / name
        path.write_text("extends: pubmedqa\nname: pubmedqa\n" + text)
        return load_card(path).fingerprint()

    base = load_cards()["pubmedqa"].fingerprint()
    assert len(base) == 64
    assert fingerprint("elsewhere.yaml", "") == base
    assert (
        fingerprint("a.yaml", "columns: {answer: final_decision, context: CONTEXTS, question: QUESTION, id: $key}\n")
        == base
    )
    assert fingerprint("a.yaml", "instruction: Else.\n") != base
    # The order of labels is that of the options.
    assert fingerprint("a.yaml", "labels: {yes: yes, no: no, maybe: maybe}\n") == base
    assert fingerprint("a.yaml", "labels: {no: no, yes: yes, maybe: maybe}\n") != base
