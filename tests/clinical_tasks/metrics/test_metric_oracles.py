"""Metrics against the packages that define them, on random and adversarial answers."""

from __future__ import annotations

import random
import sys

import numpy as np
import pytest
from rouge_score import rouge_scorer
from sklearn.metrics import accuracy_score, f1_score, precision_recall_fscore_support

from clinical_tasks import Example, evaluate, score
from clinical_tasks.metrics.counts import macro_f1
from clinical_tasks.metrics.rouge import ROUGE_TYPES, rouge_scores

WORDS = ("yes", "no", "maybe")


def choices(gold):
    return [
        Example("mine", str(n), str(n), 0, "", label, (), {"label": label, "options": list(WORDS)})
        for n, label in enumerate(gold)
    ]


@pytest.mark.parametrize("seed", range(20))
def test_choices_are_scikit_learns(card, seed):
    rng = random.Random(seed)
    gold, answers = (
        [rng.choice(labels) for _ in range(rng.randint(2, 40))]
        for labels in (WORDS[: rng.randint(1, 3)], (*WORDS, "nonsense"))
    )
    answers = (answers * len(gold))[: len(gold)]
    predicted = ["none of them" if answer == "nonsense" else answer for answer in answers]
    found = evaluate(card("qa"), choices(gold), answers, resamples=0)
    labels = sorted({*gold, *predicted} - {"none of them"})
    assert found.scores["accuracy"] == pytest.approx(accuracy_score(gold, predicted))
    # scikit-learn's default labels are those of gold and prediction, too; an unreadable answer is no label.
    wanted = f1_score(gold, predicted, labels=labels, average="macro", zero_division=0)
    assert (
        found.scores["macro_f1"]
        == pytest.approx(wanted)
        == macro_f1(gold, [None if one == "none of them" else one for one in predicted])
    )
    table = precision_recall_fscore_support(gold, predicted, labels=labels, zero_division=0)
    for label, precision, recall, f1, support in zip(labels, *table, strict=True):
        row = found.labels[label]
        assert (row["f1"], row["support"]) == (pytest.approx(f1), support)
        # Here a share of nothing is 1 only if there is nothing on the other side either.
        assert row["precision"] == pytest.approx(precision) and row["recall"] == pytest.approx(recall)


@pytest.mark.parametrize("seed", range(10))
def test_strict_spans_are_scikit_learns_micro_scores(card, brat, tmp_path, seed):
    """Every word is a span of one of two types or of none, in gold and in the answer."""
    from clinical_tasks import read_split

    rng = random.Random(seed)
    words = [f"w{n}" for n in range(30)]
    text, kinds = " ".join(words), ("Drug", "Problem", None)
    gold, predicted = ([rng.choice(kinds) for _ in words] for _ in range(2))
    places = [text.index(word + " ") if n < 29 else len(text) - len(word) for n, word in enumerate(words)]
    brat(
        "a",
        text,
        "".join(
            f"T{n}\t{kind} {places[n]} {places[n] + len(words[n])}\t{words[n]}\n" for n, kind in enumerate(gold) if kind
        ),
    )
    mine = card("ner")
    answer = "\n".join(f"{kind}: {words[n]}" for n, kind in enumerate(predicted) if kind)
    found = evaluate(mine, read_split(mine, tmp_path, "test"), [answer])
    names = [str(kind) for kind in gold], [str(kind) for kind in predicted]
    wanted = precision_recall_fscore_support(*names, labels=["Drug", "Problem"], average="micro", zero_division=0)
    assert [found.scores[f"span_{name}_strict"] for name in ("precision", "recall", "f1")] == pytest.approx(
        list(wanted[:3])
    )
    table = precision_recall_fscore_support(*names, labels=["Drug", "Problem"], zero_division=0)
    for number, label in enumerate(("Drug", "Problem")):
        assert [found.labels[label][name] for name in ("precision", "recall", "f1", "support")] == pytest.approx(
            [column[number] for column in table]
        )


TEXTS = ["", " ", "\n", "...", "None.", "İstanbul é 5.5", "pain\n\npain", "the the the"]


@pytest.mark.parametrize("stemmer", [True, False])
def test_rouge_is_rouge_scores_to_the_bit(stemmer):
    rng = random.Random(3)
    words = ["pain", "pains", "denied", "denies", "a", "the", "of", "chest", "-", "x1", "é"]

    def text():
        return "".join(rng.choice(words) + rng.choice("\n    ") for _ in range(rng.randint(0, 25)))

    pairs = [(one, other) for one in TEXTS for other in TEXTS] + [(text(), text()) for _ in range(400)]
    scorer = rouge_scorer.RougeScorer(list(ROUGE_TYPES), use_stemmer=stemmer)
    wanted = [tuple(scorer.score(*pair)[name].fmeasure for name in ROUGE_TYPES) for pair in pairs]
    assert rouge_scores(*zip(*pairs, strict=True), stemmer=stemmer) == wanted
    assert len({row[3] for row in wanted}) > 50 and any(row[2] != row[3] for row in wanted)


def lines_run(card, n):
    """How many lines of Python run to score n summaries and n choices."""
    rng = np.random.default_rng(0)
    words = [f"word{n}ing" for n in range(500)]
    texts = [" ".join(words[i] for i in row) for row in rng.integers(0, 500, (n, 40))]
    examples = [Example("mine", str(i), str(i), 0, "", one, (), {"references": [one]}) for i, one in enumerate(texts)]
    gold = [WORDS[i] for i in rng.integers(0, 3, n)]
    count = 0

    def trace(frame, event, argument):
        nonlocal count
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        evaluate(card("summarization"), examples, texts[1:] + texts[:1])
        evaluate(card("qa"), choices(gold), gold[1:] + gold[:1])
    finally:
        sys.settrace(before)
    return count


def test_the_cost_of_scoring_grows_with_the_number_of_documents(card):
    """8 times the documents cost 8 times as much, and not 64 times, as pairwise work would."""
    lines_run(card, 5)  # imports and tables
    few, many = lines_run(card, 40), lines_run(card, 8 * 40)
    assert few > 40 * 40 and many < 9 * few


def test_unreadable_answers_everywhere_score_zero(card):
    result = score(card("qa"), choices(["yes", "no"]), ["", "???"])
    assert (result["accuracy"], result["macro_f1"], result["n_unparsed"]) == (0.0, 0.0, 2)
