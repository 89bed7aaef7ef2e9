"""Cards: what is embedded, YAML's traps, inheritance, override. Mistakes: test_card_mistakes.py."""

from __future__ import annotations

import pytest

from clinical_tasks import CardError, load_card, load_cards
from clinical_tasks.readers import READER_OPTIONS, READER_VERSIONS, READERS

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


def test_yes_and_no_are_words(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("extends: pubmedqa\nname: mine\nlabels: {yes: yes, no: no, off: 2020-01-01}\n")
    assert load_card(path).labels == {"yes": "yes", "no": "no", "off": "2020-01-01"}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("name: a\nmetric: x\nname: b\n", "line 3: duplicate key 'name' (first in line 1)"),
        ("splits:\n  test: a\n  test: b\n", "line 3: duplicate key 'test' (first in line 2)"),
        ("name: [a\ntype: b\n", "line 2: not valid YAML"),
        ("- a\n", "must hold a mapping of keys to values"),
        ("extends: pubmedqaa\n", "extends: must be one of the embedded cards: aci_bench, "),
    ],
)
def test_what_is_not_a_card(tmp_path, text, problem):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(CardError) as caught:
        load_card(path)
    assert caught.value.problems[0].startswith(problem)


def test_a_missing_card_and_a_missing_directory_are_card_errors(tmp_path):
    with pytest.raises(CardError, match="No such file or directory; name a YAML file"):
        load_card(tmp_path / "gone.yaml")
    with pytest.raises(CardError, match="this directory of cards does not exist"):
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
    assert any("duplicate name 'pubmedqa' (first in a.yaml)" in problem for problem in caught.value.problems)
    assert any(problem.startswith(f"{tmp_path / 'c.yaml'}: type: missing") for problem in caught.value.problems)


def test_every_reader_has_a_version_and_options():
    assert READERS.keys() == READER_VERSIONS.keys() == READER_OPTIONS.keys()


def test_a_key_with_nothing_behind_it_takes_the_embedded_card_s_away(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("extends: pubmedqa\nname: mine\nlabels:\nextra_metrics:\nanswer:\nmetric: exact_match\n")
    mine = load_card(path)
    assert (mine.labels, mine.extra_metrics, mine.answer) == ({}, (), "generation")


def test_yes_and_no_are_switches_where_a_key_is_one(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("extends: mts_dialog\nname: mine\nrouge_stemmer: no\nreader_options: {quoting: yes}\n")
    assert (load_card(path).rouge_stemmer, load_card(path).reader_options) == (False, {"quoting": True})
