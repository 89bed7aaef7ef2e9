"""Oracles on real public corpora: CLINICAL_DATA_ROOT=DATA_ROOT python -m pytest
tests/clinical_tasks/corpus/test_public_corpora.py
"""

from __future__ import annotations

from pathlib import Path

import pytest

from clinical_tasks import (
    check_tasks,
    load_cards,
    pubtator_mention_counts,
    pubtator_relation_counts,
    read_pubtator,
    read_split,
    round_trip,
    split_long,
)

pytestmark = pytest.mark.slow

REAL = Path(__file__).parents[3] / "configs" / "real" / "cards"


def test_bc5cdr_evaluator_sample(corpora):
    gold = read_pubtator(corpora / "bc5cdr/CDR_sample.gold.PubTator")
    assert pubtator_mention_counts(gold, read_pubtator(corpora / "bc5cdr/CDR_sample.test.DNER.PubTator")) == (
        303,
        105,
        121,
    )
    assert pubtator_relation_counts(gold, read_pubtator(corpora / "bc5cdr/CDR_sample.test.CID.PubTator")) == (
        90,
        533,
        33,
    )


def test_bc5cdr_training_set(corpora):
    documents = read_pubtator(corpora / "bc5cdr/CDR_TrainingSet.PubTator.txt")
    assert len(documents) == 500
    assert sum(len(document.mentions) for document in documents) == 9385
    assert sum(len(document.relations) for document in documents) == 1038
    assert sum(len(document.mismatches) for document in documents) == 0


@pytest.mark.parametrize("name", ["bc5cdr_entities", "bc5cdr_cid"])
def test_bc5cdr_round_trip_whole_and_in_pieces(corpora, name):
    card = load_cards()[name]
    examples = read_split(card, corpora, "train")
    assert round_trip(card, examples)[card.metric] >= 0.99
    pieces = [
        piece
        for example in examples
        for piece in split_long(example, card, lambda text, answer: len(text) + len(answer) <= 1500)
    ]
    result = round_trip(card, pieces)
    assert len(pieces) > len(examples) and result["n_gold"] == {"bc5cdr_entities": 9385, "bc5cdr_cid": 1038}[name]
    assert result["span_f1_strict" if name == "bc5cdr_entities" else "relation_precision"] >= 0.99


def test_pubmedqa_splits(corpora):
    card = load_cards()["pubmedqa"]
    parts = {split: {example.example_id for example in read_split(card, corpora, split)} for split in card.splits}
    assert len(parts["test"]) == 500 and len(parts["train"]) + len(parts["validation"]) == 500
    assert len(set.union(*parts.values())) == 1000


def test_mts_dialog_counts(corpora):
    card = load_cards()["mts_dialog"]
    train, validation = (read_split(card, corpora, split) for split in ("train", "validation"))
    assert (len(train), len(validation)) == (1201, 100)
    assert not any("\r" in example.input_text + example.answer_text for example in train + validation)
    result = round_trip(card, validation)
    assert result["rougeL"] == 1.0 and result["rouge2"] == pytest.approx(0.92)


def test_cards_for_this_data_root_are_complete(corpora):
    cards = load_cards([REAL])
    names = ["bc5cdr_entities", "bc5cdr_cid", "mts_dialog", "pubmedqa"]
    checks = check_tasks([cards[name] for name in names], corpora, required=names)
    assert [check.problems for check in checks] == [[]] * 4 and all((check.ceiling or 0) >= 0.99 for check in checks)
    tests = [{e.document for e in read_split(cards[name], corpora, "test")} for name in names[:2]]
    trains = [{e.document for e in read_split(cards[name], corpora, "train")} for name in names[:2]]
    assert tests[0] == tests[1] and trains[0] == trains[1] and not tests[0] & trains[0]
