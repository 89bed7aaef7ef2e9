"""Metrics against values computed by hand."""

from __future__ import annotations

import json

import pytest

from clinical_tasks import pubtator_mention_counts, pubtator_relation_counts, read_pubtator, read_split, score
from clinical_tasks.metrics.counts import Counts, macro_f1, precision_recall_f1
from clinical_tasks.metrics.spans import lenient_counts
from clinical_tasks.metrics.text import exact_match, rouge, token_f1
from clinical_tasks.schema.documents import Document, Mention, Relation


def document(*spans, doc_id="d"):
    return Document(
        doc_id, mentions=tuple(Mention(str(n), kind, start, end) for n, (kind, start, end) in enumerate(spans))
    )


def test_precision_recall_f1():
    assert precision_recall_f1(Counts(3, 1, 2)) == (0.75, 0.6, pytest.approx(2 / 3))
    assert precision_recall_f1(Counts(0, 0, 0)) == (1.0, 1.0, 1.0)
    assert precision_recall_f1(Counts(0, 0, 4)) == (0.0, 0.0, 0.0)
    assert precision_recall_f1(Counts(0, 4, 0)) == (0.0, 0.0, 0.0)


def test_macro_f1_counts_unparsed_answers_and_absent_classes():
    # yes: tp 1, fp 1, fn 1 -> 0.5; no: tp 1, fn 1 -> 2/3; maybe: fp 0, fn 0, absent.
    assert macro_f1(["yes", "yes", "no", "no"], ["yes", None, "no", "yes"]) == pytest.approx((0.5 + 2 / 3) / 2)
    # A class that is only predicted has F1 0.
    assert macro_f1(["yes"], ["maybe"]) == 0.0


@pytest.mark.parametrize(("duplicates", "fp"), [("discard", 1), ("penalise", 2), ("set", 2)])
def test_lenient_matches_each_gold_once(duplicates, fp):
    gold = [document(("A", 0, 10), ("A", 20, 30), ("B", 40, 50))]
    # Exact on the first, a second copy over it, an overlap with the second, the wrong type over the third.
    predicted = [document(("A", 0, 10), ("A", 8, 12), ("A", 25, 35), ("A", 40, 50))]
    assert lenient_counts(gold, predicted, duplicates) == Counts(2, fp, 1)


def test_lenient_prefers_exact_matches_and_needs_a_character_of_overlap():
    gold = [document(("A", 0, 5), ("A", 5, 10))]
    assert lenient_counts(gold, [document(("A", 4, 7), ("A", 0, 5))], "penalise") == Counts(2, 0, 0)
    assert lenient_counts(gold, [document(("A", 10, 12))], "penalise") == Counts(0, 1, 2)
    assert lenient_counts(gold, [], "penalise") == Counts(0, 0, 2)


def test_bc5cdr_counts_are_on_sets(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text(
        "7|t|ab cd ef\n7\t0\t2\tab\tDisease\tD1\n7\t0\t2\tab\tDisease\tD2\n7\t3\t5\tcd\tChemical\tC1\n"
        "7\tCID\tMESH:C1\tD1\n7\tCID\tC1\tMESH:D1\n"
    )
    gold = read_pubtator(path)
    predicted = [document(("Disease", 0, 2), ("Disease", 6, 8), doc_id="7")]
    assert pubtator_mention_counts(gold, predicted) == (1, 1, 0)
    assert pubtator_mention_counts(gold, predicted, types=None) == (1, 1, 1)
    related = Document(
        "7", relations=(Relation("CID", "MESH:C1", "D1"), Relation("CID", "C1", "D2"), Relation("CID", "C1", "MESH:D2"))
    )
    assert pubtator_relation_counts(gold, [related]) == (1, 1, 0)
    assert pubtator_relation_counts(gold, [Document("8", relations=related.relations)]) == (0, 2, 1)


def test_score_of_mentions(card, brat, tmp_path):
    brat(
        "a",
        "aspirin for chest pain and rash",
        "T1\tDrug 0 7\taspirin\nT2\tProblem 12 22\tchest pain\nT3\tProblem 27 31\trash\n",
    )
    examples = read_split(card("ner"), tmp_path, "test")
    # Right; overlaps only; wrong type; not in the text.
    result = score(card("ner"), examples, ["drug: aspirin\nproblem: pain\ndrug: rash\nproblem: fever"])
    assert result["span_precision_strict"] == 1 / 4 and result["span_recall_strict"] == 1 / 3
    assert result["span_f1_strict"] == pytest.approx(2 / 7)
    assert result["span_precision_lenient"] == 2 / 4 and result["span_recall_lenient"] == 2 / 3
    assert result["text_set_f1"] == pytest.approx(2 / 7)
    assert (result["n_gold"], result["n_predicted"], result["n_unaligned"]) == (3, 4, 1)


def test_text_set_ignores_where_and_how_often(card, brat, tmp_path):
    brat("a", "pain then Pain", "T1\tProblem 10 14\tPain\n")
    examples = read_split(card("ner"), tmp_path, "test")
    result = score(card("ner"), examples, ["problem: pain\nproblem: pain"])
    assert result["text_set_f1"] == 1.0 and result["span_f1_strict"] == pytest.approx(2 / 3)


def test_score_of_choices_and_its_length_check(card, folder, tmp_path):
    (folder / "test.jsonl").write_text("\n".join(json.dumps({"q": "Q", "a": label}) for label in "yynn"))
    examples = read_split(card("qa"), tmp_path, "test")
    result = score(card("qa"), examples, ["yes", "?", "no", "yes"])
    assert result == {"accuracy": 0.5, "macro_f1": pytest.approx((0.5 + 2 / 3) / 2), "n_examples": 4, "n_unparsed": 1}
    with pytest.raises(ValueError, match="4 examples but 1 answers"):
        score(card("qa"), examples, ["yes"])


def test_rouge_values_stemmer_and_lines():
    # Unigrams: 2 of 3 and 2 of 4 -> F 4/7. No common bigram. Longest common subsequence: 1 in one sequence.
    result = rouge(["pain denies chest"], ["patient chest pain today"], stemmer=False)
    assert result == {
        "rouge1": pytest.approx(4 / 7),
        "rouge2": 0.0,
        "rougeL": pytest.approx(2 / 7),
        "rougeLsum": pytest.approx(2 / 7),
        "rouge_stemmer": 0.0,
    }
    # By lines, order across lines does not matter: L sees 2 of 4 words in order, Lsum all.
    result = rouge(["a b\nc d"], ["c d\na b"], stemmer=False)
    assert result["rougeL"] == 0.5 and result["rougeLsum"] == 1.0
    assert rouge(["pains"], ["pain"], stemmer=False)["rouge1"] == 0.0
    assert rouge(["pains"], ["pain"], stemmer=True)["rouge1"] == 1.0
    assert rouge(["a b", "c"], ["a b", "d"], stemmer=False)["rouge1"] == 0.5


def test_the_card_chooses_the_stemmer(card, folder, tmp_path):
    (folder / "test.csv").write_text("note,summary\nx,pains\n")
    for stemmer in (True, False):
        mine = card("summarization", rouge_stemmer=stemmer)
        result = score(mine, read_split(mine, tmp_path, "test"), ["pain"])
        assert result["rougeL"] == result["rouge_stemmer"] == float(stemmer) and result["exact_match"] == 0.0


def test_squad_metrics():
    assert exact_match(["The left arm."], "left  arm") == 1.0 and exact_match(["arm"], "left arm") == 0.0
    # 2 common of 3 and 2.
    assert token_f1(["the left upper arm", "x"], "left arm") == pytest.approx(4 / 5)
    assert token_f1(["x"], "") == 0.0 and token_f1(["the"], "a") == 1.0


def test_the_primary_metric_is_always_there(card, brat, folder, tmp_path):
    brat("a", "x", "")
    (folder / "test.jsonl").write_text('{"q": "Q", "a": "y"}')
    (folder / "test.csv").write_text("note,summary\nx,y\n")
    from clinical_tasks.task_card.cross_checks import METRICS, known_metrics

    for kind in ("ner", "re", "qa", "summarization"):
        mine = card(kind)
        result = score(mine, read_split(mine, tmp_path, "test"), [""])
        assert set(known_metrics(mine)) <= set(result) and mine.metric in METRICS[kind]
