"""Test documents of a target that are training documents of a source: by id, by text, nearly."""

from __future__ import annotations

import json
import random

import pytest
import yaml

from clinical_tasks import load_card
from clinical_tasks.audit.overlap import find_overlaps


@pytest.fixture
def task(tmp_path):
    """`task("a", train=[...], test=[...])`: a task over rows (id, question), its files and card."""

    def make(name, **rows):
        folder = tmp_path / name
        folder.mkdir()
        for split in ("train", "test"):
            lines = [{"i": i, "q": q, "a": "y"} for i, q in rows.get(split, [("filler", "nothing to see")])]
            (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, lines)))
        card = {
            "name": name,
            "type": "qa",
            "reader": "jsonl",
            "licence": "invented",
            "access": "public",
            "input": "{question}",
            "metric": "accuracy",
            "splits": {"train": "train.jsonl", "test": "test.jsonl"},
            "columns": {"id": "i", "question": "q", "answer": "a"},
            "labels": {"y": "yes"},
        }
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(card))
        return load_card(path)

    return make


def note(seed, words=60):
    rng = random.Random(seed)
    return " ".join(f"w{rng.randrange(5000)}" for _ in range(words))


def found(overlaps):
    return {(p.target, p.source): (p.by_id, p.same_text, p.near, p.affected, p.train_examples) for p in overlaps.pairs}


def test_three_ways_of_being_the_same(task, tmp_path):
    shared = note(1)
    changed = " ".join(word if n % 25 else "other" for n, word in enumerate(note(2).split()))
    test = [("10000001", note(3)), ("b", shared), ("c", note(2)), ("d", note(4)), ("10000003", note(10))]
    begins = " ".join([*note(3).split()[:12], *note(5).split()])
    train = [
        ("10000001", begins),
        ("10000003", note(9)),
        ("s2", "  " + shared.upper().replace(" ", " \n") + "."),
        ("s3", changed),
        ("s4", note(6)),
        ("d", note(7)),
    ]
    overlaps = find_overlaps(
        [task("target", test=test)], [task("source", train=train), task("clean", train=[("x", note(8))])], tmp_path
    )
    assert found(overlaps) == {
        ("target", "source"): (1, 1, 1, 3, 3)
    }  # the short id d says nothing, nor does a number of two documents
    assert overlaps.sources == {"source": {"10000001", "s2", "s3"}} and overlaps.pairs[0].test_documents == 5
    assert overlaps.pairs[0].line() == (
        "3 of 5 test documents of target are in 3 training examples of source (1 by id, 1 same text, 1 near)"
    )


def test_a_sentence_is_found_in_its_note_and_a_note_in_its_sentence(task, tmp_path):
    long = note(1, 2000)
    sentence = " ".join(long.split()[700:725])
    one = task("one", test=[("a", sentence)], train=[("b", long)])
    two = task("two", test=[("c", long)], train=[("d", sentence)])
    assert found(find_overlaps([one], [one], tmp_path)) == {("one", "one"): (0, 0, 1, 1, 1)}
    assert found(find_overlaps([two], [two], tmp_path)) == {("two", "two"): (0, 0, 1, 1, 1)}


def test_half_of_the_shorter_text_is_the_border(task, tmp_path):
    def grown(share):
        return " ".join([*note(1).split()[: int(60 * share)], *note(99).split()[: 60 - int(60 * share)]])

    sources = [task(f"s{percent}", train=[("x", grown(percent / 100))]) for percent in (30, 45, 60, 90)]
    overlaps = find_overlaps([task("target", test=[("a", note(1))])], sources, tmp_path)
    assert {p.source for p in overlaps.pairs} == {"s60", "s90"}


def test_boilerplate_and_short_texts_are_no_overlap(task, tmp_path):
    header = note(0, 40)
    test = [(f"t{n}", f"{header} {note(n + 1000, 20)}") for n in range(150)] + [("u", "chest pain today")]
    train = [("s", f"{header} {note(5, 20)}"), ("v", "chest pain today again")]
    assert found(find_overlaps([task("target", test=test)], [task("source", train=train)], tmp_path)) == {}


def test_a_task_is_not_asked_to_drop_its_own_rows_for_its_own_test(task, tmp_path):
    both = task("both", test=[("a", note(1))], train=[("b", note(1))])
    overlaps = find_overlaps([both], [both], tmp_path)
    assert found(overlaps) == {("both", "both"): (0, 1, 0, 1, 1)} and overlaps.sources == {}


def test_ten_thousand_documents(task, tmp_path):
    rng = random.Random(0)
    vocabulary = [f"w{n}" for n in range(20_000)]
    texts = [" ".join(rng.choices(vocabulary, k=60)) for _ in range(10_000)]
    test = [(f"t{n}", text) for n, text in enumerate(texts[:2000])]
    train = [(f"s{n}", text) for n, text in enumerate(texts[1990:])]
    overlaps = find_overlaps([task("target", test=test)], [task("source", train=train)], tmp_path)
    assert found(overlaps) == {("target", "source"): (0, 10, 0, 10, 10)}
