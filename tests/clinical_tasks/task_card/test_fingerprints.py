"""A card's fingerprint: of its content, and the same as ever."""

from __future__ import annotations

import pytest

from clinical_tasks import TaskCard, load_card, load_cards
from strict_yaml import fields_of


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


EVERY_KEY = """
name: every_key
type: qa
reader: csv
folder: f
title: T
splits:
  train: [a.csv, b.csv]
  validation: {hold_out: {from: train, fraction: 0.25}}
  test: {files: c.csv, ids_not_in: ids}
columns: {id: [a, 1], question: q, answer: a}
reader_options: {delimiter: ;, quoting: false, header: [a, q]}
options: {columns: [o, p], gold: index0, text: t, key: k, layout: "{letter}) {text}"}
ignore_labels: [3, ""]
input: |
  {question}
  {options}
instruction: Choose.
answer: generation
metric: accuracy
extra_metrics: macro_f1
duplicates: penalise
rouge_stemmer: false
licence: L
access: A
citation: C
url: U
protocol: P
published: {train: 3, test: {documents: 4, mentions: 5}}
"""
EVERY_OTHER_KEY = """
name: every_other_key
type: ner
reader: brat
splits: {test: "*.txt"}
labels: {1: one, Drug: 2, x: 1.5}
relations: {level: entity, head: A, tail: [B, C], symmetric: true}
triggers: Drug
input: "{text}"
metric: span_f1_sdoh_2022
licence: L
access: A
"""


@pytest.mark.parametrize(
    ("text", "recorded"),
    [
        (EVERY_KEY, "a91d36bc7a9306ca30c189d600b1efb6bf15620742928087732cfde3ab5cbc09"),
        (EVERY_OTHER_KEY, "765345660d6130c73b880807c713d66bdf4ec81497a94ed20f43920e336ef1ab"),
    ],
)
def test_fingerprints_stay_since_caches_and_checkpoints_are_found_by_them(tmp_path, text, recorded):
    path = tmp_path / "card.yaml"
    path.write_text(text)
    assert load_card(path).fingerprint() == recorded


def test_the_two_texts_give_every_key_of_a_card():
    written = {line.partition(":")[0] for line in (EVERY_KEY + EVERY_OTHER_KEY).splitlines()}
    assert set(fields_of(TaskCard)) <= written
