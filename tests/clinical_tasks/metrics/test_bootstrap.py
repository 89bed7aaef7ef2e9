"""Intervals by resampling documents: against scoring resampled documents again, and what must hold of any interval."""

from __future__ import annotations

import dataclasses
import random

import numpy as np
import pytest

from clinical_tasks import Example, evaluate, read_split, score, split_long
from clinical_tasks.metrics.bootstrap import Statistic, interval, mean_of, replicate, resample_indices

LETTERS = ("A", "B", "C")


def label_task(card, seed, n_documents=12):
    """Questions on few documents: one to four on each."""
    rng = random.Random(seed)
    owners = [f"d{number}" for number in range(n_documents) for _ in range(rng.randint(1, 4))]
    examples = [
        Example("mine", str(n), owner, 0, "", "", (), {"label": rng.choice(LETTERS), "options": list(LETTERS)})
        for n, owner in enumerate(owners)
    ]
    return (
        card("qa", labels={letter: letter for letter in LETTERS}),
        examples,
        [rng.choice((*LETTERS, "?")) for _ in examples],
    )


def mention_task(card, brat, root, seed):
    """Notes of words that are mentions of two types; answers with lines left out, of the wrong type, made up and
    repeated; long notes in pieces.
    """
    rng = random.Random(seed)
    answers = []
    for number in range(9):
        words = [rng.choice(("ache", "rash", "cough", "aspirin", "statin")) for _ in range(rng.randint(4, 30))]
        text, lines = "", []
        for word in words:
            if rng.random() < 0.6:
                lines.append(
                    f"T{len(lines) + 1}\t{rng.choice(('Drug', 'Problem'))} {len(text)} {len(text) + len(word)}\t{word}"
                )
            text += word + rng.choice((" ", ". Then "))
        brat(f"n{number}", text, "\n".join(lines))
    mine = card("ner", duplicates=("discard", "penalise", "set")[seed % 3], triggers=["Drug"])
    fits = lambda text, answer: len(text) + len(answer) < 150  # noqa: E731
    examples = [piece for example in read_split(mine, root, "test") for piece in split_long(example, mine, fits)]
    for example in examples:
        lines = example.answer_text.split("\n")
        answers.append(
            "\n".join(
                rng.choice((line, line, line + "\n" + line, "", "drug: fever", "problem: ache", "nonsense"))
                for line in lines
            )
        )
    assert len({example.document for example in examples}) == 9 < len(examples)
    return mine, examples, answers


def relation_task(card, brat, root, seed):
    rng = random.Random(seed)
    for number in range(8):
        text = " ".join(f"drug{n} for ache{n}." for n in range(4))
        starts = [(text.index(f"drug{n}"), text.index(f"ache{n}")) for n in range(4)]
        lines = [
            f"T{n}\tDrug {one} {one + 5}\tdrug{n}\nT{n + 4}\tProblem {other} {other + 5}\tache{n}"
            for n, (one, other) in enumerate(starts)
        ]
        lines += [f"R{n}\t{rng.choice(('Treats', 'Causes'))} Arg1:T{n} Arg2:T{rng.randint(4, 7)}" for n in range(4)]
        brat(f"n{number}", text, "\n".join(lines))
    mine = card("re", duplicates=("discard", "penalise", "set")[seed % 3])
    fits = lambda text, answer: len(text) < 75  # noqa: E731
    examples = [piece for example in read_split(mine, root, "test") for piece in split_long(example, mine, fits)]
    answers = [
        "\n".join(
            rng.choice((line, line, "drug1 | causes | ache1", "x | treats | y")) for line in e.answer_text.split("\n")
        )
        for e in examples
    ]
    return mine, examples, answers


def text_task(card, seed):
    rng = random.Random(seed)
    words = ["pain", "rash", "denies", "no", "today"]
    texts = ["\n".join(" ".join(rng.choices(words, k=4)) for _ in range(rng.randint(1, 3))) for _ in range(24)]
    examples = [
        Example("mine", str(n), f"d{n // 2}", 0, "", one, (), {"references": [one]}) for n, one in enumerate(texts)
    ]
    return card("summarization"), examples, texts[1:] + [texts[-1]]


@pytest.fixture(params=["ner", "re", "qa", "summarization"])
def task(request, card, brat, tmp_path):
    """A card, examples and imperfect answers."""
    return {
        "ner": lambda seed: mention_task(card, brat, tmp_path, seed),
        "re": lambda seed: relation_task(card, brat, tmp_path, seed),
        "qa": lambda seed: label_task(card, seed),
        "summarization": lambda seed: text_task(card, seed),
    }[request.param]


@pytest.mark.parametrize("seed", range(3))
def test_replicates_are_the_scores_of_resampled_documents(task, seed):
    """Naively: draw documents, copy their examples under new names, score from the answers' text."""
    card, examples, answers = task(seed)
    found = evaluate(card, examples, answers, resamples=15, seed=seed)
    names = sorted({example.document for example in examples})
    owned = {
        name: [(example, answer) for example, answer in zip(examples, answers, strict=True) if example.document == name]
        for name in names
    }
    (drawn,) = resample_indices(len(names), 15, seed)
    for number, indices in enumerate(drawn):
        pairs = [
            (dataclasses.replace(example, document=f"{copy}"), answer)
            for copy, index in enumerate(indices)
            for example, answer in owned[names[index]]
        ]
        again = score(card, *zip(*pairs, strict=True))
        assert {name: values[number] for name, values in found.replicates.items()} == pytest.approx(
            {name: again[name] for name in found.replicates}
        )
    assert card.metric in found.replicates and len({tuple(row) for row in drawn}) == 15


def test_the_interval_is_deterministic_holds_the_score_and_depends_on_the_seed(task):
    card, examples, answers = task(1)
    found = evaluate(card, examples, answers)
    low, high = found.intervals()[card.metric]
    assert 0 <= low < found.scores[card.metric] < high <= 1
    assert (
        evaluate(card, examples, answers).intervals()
        == found.intervals()
        != evaluate(card, examples, answers, seed=1).intervals()
    )
    assert found.resampling == {
        "unit": "document",
        "n_documents": len({e.document for e in examples}),
        "resamples": 1000,
        "seed": 0,
        "level": 0.95,
    }


def test_the_order_of_documents_changes_nothing(task):
    card, examples, answers = task(2)
    found = evaluate(card, examples, answers, resamples=50)
    blocks: dict[str, list] = {}
    for pair in zip(examples, answers, strict=True):
        blocks.setdefault(pair[0].document, []).append(pair)
    order = list(blocks)
    random.Random(0).shuffle(order)
    shuffled = [pair for name in order for pair in blocks[name]]
    again = evaluate(card, *zip(*shuffled, strict=True), resamples=50)
    assert [e.example_id for e, _ in shuffled] != [e.example_id for e in examples]
    assert (again.scores, again.labels, again.intervals()) == (found.scores, found.labels, found.intervals())


def test_documents_are_drawn_not_their_examples():
    """All of a document is right or wrong, and there are many examples to a document: the interval is that of few
    independent draws.
    """
    rows = np.array([[100.0, 100.0], [0.0, 100.0]] * 10)
    values = replicate({"x": rows}, statistics={"accuracy": Statistic("x", mean_of(0))}, resamples=1000, seed=0)[
        "accuracy"
    ]
    assert values.std() == pytest.approx(
        (0.25 / 20) ** 0.5, rel=0.1
    )  # of 2,000 independent examples it would be a tenth
    low, high = interval(values)
    assert 0.2 < low < 0.35 and 0.65 < high < 0.8


def test_chunks_of_resamples_are_what_one_chunk_would_be(monkeypatch):
    rows = np.random.default_rng(0).integers(0, 5, (40, 3)).astype(float)
    arguments = {"x": rows}, {"mean": Statistic("x", mean_of(0))}, 30, 7
    whole = replicate(*arguments)["mean"]
    monkeypatch.setattr("clinical_tasks.metrics.bootstrap._CELLS", 90)
    assert np.array_equal(replicate(*arguments)["mean"], whole)


def test_no_interval_from_one_document_or_without_resamples(card):
    mine, examples, answers = label_task(card, 0, n_documents=1)
    assert evaluate(mine, examples, answers).replicates == {} == evaluate(mine, examples, answers).intervals()
    mine, examples, answers = label_task(card, 0)
    off = evaluate(mine, examples, answers, resamples=0)
    assert off.replicates == {} and off.resampling["resamples"] == 0
    assert evaluate(mine, [], []).scores["accuracy"] == 0.0


def test_an_interval_covers_the_truth_as_often_as_it_says():
    """Documents from a known law; 95 % of intervals should hold its mean, percentile intervals of 60 documents a
    little fewer.
    """
    rng = np.random.default_rng(0)
    held = 0
    for number in range(200):
        right = rng.binomial(5, rng.beta(6, 3, 60)).astype(float)
        values = replicate(
            {"x": np.stack([right, np.full(60, 5.0)], axis=1)},
            statistics={"a": Statistic("x", mean_of(0))},
            resamples=400,
            seed=number,
        )["a"]
        low, high = interval(values)
        held += low <= 2 / 3 <= high
    assert 0.88 <= held / 200 <= 0.99
