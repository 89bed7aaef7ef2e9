"""Who is matched with whom where several annotations touch: by hand, and against the plain procedures that the
rules stand for.
"""

from __future__ import annotations

from hypothesis import given, strategies as st

from clinical_tasks import read_split, rule, score
from clinical_tasks.metrics.matching import lenient
from clinical_tasks.metrics.spans import overlap, text_order

SPANS = st.sets(
    st.tuples(st.integers(0, 12), st.integers(1, 6)).map(lambda pair: (pair[0], pair[0] + pair[1])), max_size=7
)


def counts(gold, predicted):
    return {
        name: tuple(found)
        for name, found in lenient(sorted(gold, key=text_order), sorted(predicted, key=text_order), overlap).items()
    }


def test_a_second_prediction_over_one_gold_mention():
    assert counts({(0, 10)}, {(0, 5), (6, 10)}) == {
        "n2c2_2018": (1, 0, 0),
        "brat_scoring": (1, 1, 0),
        "exact_first": (1, 1, 0),
    }


def test_one_prediction_over_two_gold_mentions():
    assert set(counts({(0, 4), (5, 9)}, {(2, 7)}).values()) == {(1, 0, 1)}


def test_an_exact_prediction_after_one_that_overlaps_it():
    # In text order (0, 12) comes first. The n2c2 script then drops the exact one; all others take one gold mention
    # each.
    found = counts({(0, 4), (6, 12)}, {(0, 12), (6, 12)})
    assert found == {"n2c2_2018": (1, 0, 1), "brat_scoring": (2, 0, 0), "exact_first": (2, 0, 0)}
    # (0, 6) overlaps both gold mentions and comes first: brat_scoring takes it for (0, 4), and (0, 4) itself has
    # nothing left.
    found = counts({(0, 4), (5, 9)}, {(0, 6), (0, 4)})
    assert found == {"n2c2_2018": (1, 0, 1), "brat_scoring": (1, 1, 1), "exact_first": (2, 0, 0)}


def test_overlapping_gold_mentions_of_one_type_lose_score_under_the_n2c2_script_only():
    gold = {(0, 8), (4, 12)}
    assert counts(gold, gold) == {"n2c2_2018": (1, 0, 1), "brat_scoring": (2, 0, 0), "exact_first": (2, 0, 0)}


def test_touching_ends_do_not_overlap_and_nothing_is_right():
    assert set(counts({(0, 4)}, {(4, 8)}).values()) == {(0, 1, 1)}
    assert set(counts(set(), set()).values()) == {(0, 0, 0)}
    assert set(counts({(0, 4)}, set()).values()) == {(0, 0, 1)} and set(counts(set(), {(0, 4)}).values()) == {(0, 1, 0)}


@given(SPANS, SPANS)
def test_n2c2_2018_is_the_scripts_procedure(gold, predicted):
    """A list of system tags from which tags are taken out, then counted against all gold tags."""
    gold_list, system = sorted(gold, key=text_order), sorted(predicted, key=text_order)
    left, matched = list(system), []
    for one in system:
        for other in gold_list:
            if overlap(one, other):
                if other not in matched:
                    matched.append(other)
                elif one in left:
                    left.remove(one)
    tp = len({one for one in left for other in gold_list if overlap(one, other)})
    assert counts(gold, predicted)["n2c2_2018"] == (tp, len(left) - tp, len(gold_list) - tp)


@given(SPANS, SPANS)
def test_brat_scoring_is_the_packages_procedure(gold, predicted):
    """Gold by gold, prediction by prediction: a pair that touches is taken if neither is taken yet."""
    gold_taken, taken = set(), set()
    for one in sorted(gold, key=text_order):
        for other in sorted(predicted, key=text_order):
            if overlap(one, other) and one not in gold_taken and other not in taken:
                gold_taken.add(one)
                taken.add(other)
    assert counts(gold, predicted)["brat_scoring"] == (len(taken), len(predicted) - len(taken), len(gold) - len(taken))


@given(SPANS, SPANS)
def test_exact_matches_come_first_and_no_gold_mention_counts_twice(gold, predicted):
    tp, fp, fn = counts(gold, predicted)["exact_first"]
    assert len(gold & predicted) <= tp <= min(len(gold), len(predicted)) and (fp, fn) == (
        len(predicted) - tp,
        len(gold) - tp,
    )


def test_a_card_chooses_the_rule_and_the_result_has_all_of_them(card, brat, tmp_path):
    brat("a", "severe chest pain today", "T1\tProblem 0 17\tsevere chest pain\n")
    answer = "problem: severe chest\nproblem: pain"
    for duplicates, precision in (("discard", 1.0), ("penalise", 0.5), ("set", 0.5)):
        mine = card("ner", duplicates=duplicates)
        result = score(mine, read_split(mine, tmp_path, "test"), [answer])
        assert (result["span_precision_lenient"], result["span_recall_lenient"]) == (precision, 1.0)
        assert (result["span_precision_n2c2_2018"], result["span_precision_brat_scoring"]) == (1.0, 0.5)
        assert {"discard": "n2c2-2018 script", "penalise": "brat_scoring", "set": "exact matches first"}[
            duplicates
        ] in rule(mine, "span_f1_lenient")
    assert "BC5CDR" in rule(mine, "span_f1_strict") and rule(mine, "span_f1_strict").startswith(
        "micro over Drug, Problem:"
    )


def test_social_history_triggers_by_overlap_arguments_by_exact_span(card, brat, tmp_path):
    text = "former heavy smoker, one pack a day"
    brat("a", text, "T1\tTobacco 13 19\tsmoker\nT2\tAmount 21 35\tone pack a day\n")
    mine = card(
        "ner", labels={"Tobacco": "tobacco", "Amount": "amount"}, triggers=["Tobacco"], metric="span_f1_sdoh_2022"
    )
    examples = read_split(mine, tmp_path, "test")
    # The trigger overlaps; the argument overlaps only.
    result = score(mine, examples, ["tobacco: heavy smoker\namount: one pack"])
    assert (
        result["span_precision_sdoh_2022"],
        result["span_recall_sdoh_2022"],
        result["span_f1_strict"],
        result["span_f1_lenient"],
    ) == (0.5, 0.5, 0, 1)
    # A second trigger over the same gold one is false.
    assert (
        score(mine, examples, ["tobacco: heavy\ntobacco: smoker\namount: one pack a day"])["span_precision_sdoh_2022"]
        == 2 / 3
    )


def test_social_history_relations_hang_on_their_trigger(card, brat, tmp_path):
    # Two triggers that overlap (a nested annotation), one argument.
    brat(
        "a",
        "heavy smoker daily, smoker once",
        "T1\tTobacco 0 12\theavy smoker\nT2\tTobacco 6 12\tsmoker\nT3\tAmount 13 18\tdaily\n"
        "T4\tTobacco 20 26\tsmoker\nT5\tAmount 27 31\tonce\nE1\tTobacco:T1 Amount:T3\nE2\tTobacco:T4 "
        "Amount:T5\nE3\tTobacco:T2\n",
    )
    mine = card(
        "re", labels={"Amount": "amount"}, reader_options={"events": "relations"}, metric="relation_f1_sdoh_2022"
    )
    examples = read_split(mine, tmp_path, "test")
    assert examples[0].answer_text == "heavy smoker | amount | daily\nsmoker | amount | once"
    # The nested trigger stands for the outer one by overlap; strictly it is another.
    result = score(mine, examples, ["smoker | amount | daily\nsmoker | amount | once"])
    assert (result["relation_f1_sdoh_2022"], result["relation_f1"], result["relation_f1_lenient"]) == (1.0, 0.5, 1.0)
    # The right argument under another trigger is wrong, and its own is missed.
    result = score(mine, examples, ["heavy smoker | amount | once"])
    assert (result["relation_precision_sdoh_2022"], result["relation_recall_sdoh_2022"]) == (0.0, 0.0)
    result = score(mine, examples, ["heavy smoker | amount | daily"])
    assert (result["relation_precision_sdoh_2022"], result["relation_recall_sdoh_2022"]) == (1.0, 0.5)


def test_symmetric_relations_may_be_written_either_way_round(card, brat, tmp_path):
    brat("a", "aspirin with warfarin", "T1\tDrug 0 7\taspirin\nT2\tDrug 13 21\twarfarin\nR1\tCauses Arg1:T1 Arg2:T2\n")
    for symmetric, f1 in ((True, 1.0), (False, 0.0)):
        mine = card("re", relations={"head": ["Drug"], "tail": ["Drug"], "symmetric": symmetric})
        result = score(mine, read_split(mine, tmp_path, "test"), ["warfarin | causes | aspirin"])
        assert result["relation_f1"] == result["relation_f1_lenient"] == f1
        assert ("either order" in rule(mine, "relation_f1")) is symmetric
    # Both ways round are one relation.
    mine = card("re", relations={"symmetric": True})
    result = score(
        mine, read_split(mine, tmp_path, "test"), ["warfarin | causes | aspirin\naspirin | causes | warfarin"]
    )
    assert (result["relation_f1"], result["n_predicted"]) == (1.0, 1)


def test_relations_between_mentions_alike_are_compared_by_their_spans(card, brat, tmp_path):
    brat(
        "a",
        "aspirin for pain",
        "T1\tDrug 0 7\taspirin\nT2\tProblem 12 16\tpain\nT3\tDrug 0 7\taspirin\nR1\tTreats Arg1:T3 Arg2:T2\n",
    )
    mine = card("re")
    examples = read_split(mine, tmp_path, "test")
    assert score(mine, examples, [examples[0].answer_text])["relation_f1"] == 1.0


def test_of_heads_that_begin_together_the_longer_is_matched_first(card, brat, tmp_path):
    # "iron with copper" comes first and takes "iron", as it would among mentions; nothing is left for "iron" itself.
    brat(
        "a",
        "iron with copper for pain",
        "T1\tDrug 0 16\tiron with copper\nT2\tDrug 0 4\tiron\nT3\tDrug 10 16\tcopper\nT4\tProblem 21 25\tpain\n"
        "R1\tTreats Arg1:T2 Arg2:T4\nR2\tTreats Arg1:T3 Arg2:T4\n",
    )
    mine = card("re")
    examples = read_split(mine, tmp_path, "test")
    result = score(mine, examples, ["iron | treats | pain\niron with copper | treats | pain"])
    assert (result["relation_precision_brat_scoring"], result["relation_recall_brat_scoring"]) == (0.5, 0.5)


def test_relations_of_other_types_than_the_cards_are_neither_gold_nor_right(card, brat, tmp_path):
    """ChemProt: five classes are scored; the others are not asked for, and a line that names one is false."""
    brat(
        "a",
        "X binds Y and Z",
        (
            "T1\tCHEMICAL 0 1\tX\nT2\tGENE 8 9\tY\nT3\tGENE 14 15\tZ\nR1\tCPR:3 Arg1:T1 Arg2:T2\nR2\tCPR:1 Arg1:T1 "
            "Arg2:T3\n"
        ),
    )
    mine = card("re", labels={"CPR:3": "activates", "CPR:4": "inhibits"})
    examples = read_split(mine, tmp_path, "test")
    assert examples[0].answer_text == "X | activates | Y"
    assert score(mine, examples, ["X | activates | Y\nX | CPR:1 | Z"])["relation_precision"] == 0.5
    assert rule(mine, "relation_f1").startswith("micro over CPR:3, CPR:4:")
