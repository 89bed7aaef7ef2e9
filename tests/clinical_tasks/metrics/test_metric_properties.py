"""What must hold of every metric, whatever a model writes."""

from __future__ import annotations

import random
import string

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from clinical_tasks import Document, Example, Mention, Relation, evaluate, round_trip, score
from clinical_tasks.scoring.counts import OTHER
from clinical_tasks.task_card.cross_checks import known_metrics
from clinical_tasks.text_pairs.serialise import make_example

QUICK = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
NOTE = (
    "Severe chest pain and a rash. Aspirin given; pain and cough less, aspirin stopped, statin, warfarin and heparin "
    "begun later on."
)
WORDS = ["chest pain", "pain", "rash", "Aspirin", "aspirin", "cough", "statin", "warfarin", "heparin"]
KINDS = ("Drug", "Problem")


def places(word):
    start = NOTE.find(word)
    while start >= 0:
        yield start, start + len(word)
        start = NOTE.find(word, start + 1)


EVERY = sorted({place for word in WORDS for place in places(word)})
# Spans that do not overlap: under the n2c2-2018 rule gold mentions of one type that overlap lose score themselves.
APART = [place for place in EVERY if NOTE[slice(*place)] != "chest pain"]
MENTIONS = st.lists(
    st.tuples(st.sampled_from(APART), st.sampled_from(KINDS)), unique_by=lambda pair: pair[0], max_size=8
)
LINES = st.lists(
    st.one_of(
        st.tuples(
            st.sampled_from(["drug", "problem", "DRUG", "food", ""]),
            st.sampled_from([*WORDS, "fever", "", ":", "none"]),
        ).map(": ".join),
        st.tuples(
            st.sampled_from([*WORDS, "fever"]),
            st.sampled_from(["treats", "causes", "eats"]),
            st.sampled_from([*WORDS, ""]),
        ).map(" | ".join),
        st.text(string.printable + "é\u2028\x85|", max_size=12),
    ),
    max_size=8,
).map("\n".join)


def note(number, spans, relations=()):
    mentions = tuple(Mention(f"T{n}", kind, *span) for n, (span, kind) in enumerate(sorted(spans)))
    return Document(f"d{number}", NOTE, mentions, relations)


def exact(spans):
    """The same with every occurrence of a text annotated alike, for a text names its occurrences from the first on."""
    kinds = {NOTE[slice(*span)].lower(): kind for span, kind in spans}
    return [(span, kinds[NOTE[slice(*span)].lower()]) for span in APART if NOTE[slice(*span)].lower() in kinds]


def pairs(spans):
    """Relations from every drug to the problem closest in the list."""
    kinds = [kind for _, kind in sorted(spans)]
    problems = [n for n, kind in enumerate(kinds) if kind == "Problem"]
    drugs = [n for n, kind in enumerate(kinds) if kind == "Drug" and problems]
    return tuple(Relation("Treats" if n % 2 else "Causes", f"T{n}", f"T{problems[n % len(problems)]}") for n in drugs)


@QUICK
@given(st.lists(MENTIONS, min_size=1, max_size=4), st.sampled_from(["set", "discard", "penalise"]))
def test_gold_mentions_score_one_by_every_metric(card, notes, duplicates):
    mine = card("ner", duplicates=duplicates, triggers=["Drug"])
    result = round_trip(mine, [make_example(mine, note(n, exact(spans))) for n, spans in enumerate(notes)])
    assert {name: result[name] for name in known_metrics(mine)} == dict.fromkeys(known_metrics(mine), 1.0)


@QUICK
@given(st.lists(MENTIONS, min_size=1, max_size=3))
def test_gold_relations_score_one_where_their_texts_are_unique(card, notes):
    mine = card("re")
    spans = [
        [(span, kind) for span, kind in one if NOTE[slice(*span)].lower() not in ("pain", "aspirin")] for one in notes
    ]
    result = round_trip(mine, [make_example(mine, note(n, one, pairs(one))) for n, one in enumerate(spans)])
    assert {name: result[name] for name in known_metrics(mine)} == dict.fromkeys(known_metrics(mine), 1.0)


@pytest.mark.parametrize("kind", ["qa", "summarization", "free"])
def test_gold_choices_and_texts_score_one(card, kind):
    mine = card("qa", labels=None, metric="exact_match") if kind == "free" else card(kind)
    words = ["yes", "no", "maybe"]
    gold = [
        {"label": word, "options": words} if kind == "qa" else {"references": [f"{word} was seen here"]}
        for word in words
    ]
    examples = [
        Example("mine", str(n), str(n), 0, "", str(one.get("label") or one["references"][0]), (), one)
        for n, one in enumerate(gold)
    ]
    result = round_trip(mine, examples)
    assert {name: result[name] for name in known_metrics(mine)} == dict.fromkeys(known_metrics(mine), 1.0)


@QUICK
@given(
    MENTIONS,
    LINES,
    st.sampled_from(["set", "discard", "penalise"]),
    st.sampled_from(["drug: fever", "problem: fever", "food: pain", "nonsense"]),
)
def test_a_wrong_mention_never_raises_precision_nor_any_f1(card, spans, answer, duplicates, wrong):
    mine = card("ner", duplicates=duplicates, triggers=["Drug"])
    examples = [make_example(mine, note(0, spans))]
    before, after = (score(mine, examples, [text]) for text in (answer, f"{answer}\n{wrong}"))
    for name in known_metrics(mine):
        assert after[name] == before[name] if "recall" in name and before["n_gold"] else after[name] <= before[name], (
            name
        )
    assert after["n_predicted"] == before["n_predicted"] + 1 and after["n_unaligned"] == before["n_unaligned"] + 1


@QUICK
@given(
    MENTIONS,
    LINES,
    st.sampled_from(["aspirin | treats | fever", "x | causes | y", "aspirin | eats | rash", "nonsense"]),
)
def test_a_wrong_relation_never_raises_precision_nor_any_f1(card, spans, answer, wrong):
    mine = card("re")
    examples = [make_example(mine, note(0, spans, pairs(spans)))]
    before, after = (score(mine, examples, [text]) for text in (answer, f"{answer}\n{wrong}"))
    for name in known_metrics(mine):
        assert after[name] == before[name] if "recall" in name and before["n_gold"] else after[name] <= before[name], (
            name
        )
    assert after["n_unaligned"] == before["n_unaligned"] + 1


@QUICK
@given(
    st.lists(st.tuples(MENTIONS, LINES), min_size=2, max_size=4),
    st.sampled_from(["ner", "re"]),
    st.randoms(use_true_random=False),
)
def test_scores_lie_between_zero_and_one_and_no_order_of_documents_matters(card, notes, kind, rng):
    mine = card(kind)
    examples = [
        make_example(mine, note(n, spans, pairs(spans) if kind == "re" else ())) for n, (spans, _) in enumerate(notes)
    ]
    rows = list(zip(examples, [answer for _, answer in notes], strict=True))
    found = evaluate(mine, *zip(*rows, strict=True), resamples=20)
    assert all(0 <= found.scores[name] <= 1 for name in known_metrics(mine))
    assert all(((values >= 0) & (values <= 1)).all() for values in found.replicates.values())
    # What is gold and what is predicted is what the table of labels sums up to.
    assert sum(row["support"] for row in found.labels.values()) == found.scores["n_gold"]
    assert sum(row["predicted"] for row in found.labels.values()) == found.scores["n_predicted"]
    rng.shuffle(rows)
    again = evaluate(mine, *zip(*rows, strict=True), resamples=20)
    assert (again.scores, again.labels, again.intervals()) == (found.scores, found.labels, found.intervals())


ADVERSARIAL = {
    "empty": "",
    "only none": "none",
    "one line again and again": "drug: aspirin\n" * 50,
    "wrong types": "problem: aspirin\ndrug: pain\ndrug: rash",
    "not in the note": "drug: fever\nproblem: tachycardia",
    "no grammar": "I see | no : drug",
    "overlapping": "problem: chest pain\nproblem: pain\nproblem: Severe chest pain",
}


@pytest.mark.parametrize(
    ("name", "strict", "lenient", "unaligned"),
    [
        ("empty", (0, 0, 3), (0, 0, 3), 0),
        ("only none", (0, 0, 3), (0, 0, 3), 0),
        # Two occurrences (in any case), one of them gold; 48 lines find no further place.
        ("one line again and again", (1, 49, 2), (1, 49, 2), 48),
        ("wrong types", (0, 3, 3), (0, 3, 3), 0),
        ("not in the note", (0, 2, 3), (0, 2, 3), 2),
        # "chest pain" is gold, "pain" and "Severe chest pain" lie over it or over the next.
        ("overlapping", (1, 2, 2), (1, 2, 2), 0),
        ("no grammar", (0, 1, 3), (0, 1, 3), 1),
    ],
)
def test_adversarial_answers_are_counted_line_by_line(card, name, strict, lenient, unaligned):
    mine = card("ner", duplicates="penalise")
    spans = [
        ((NOTE.index("chest pain"), NOTE.index("chest pain") + 10), "Problem"),
        ((NOTE.index("rash"), NOTE.index("rash") + 4), "Problem"),
        ((NOTE.index("Aspirin"), NOTE.index("Aspirin") + 7), "Drug"),
    ]
    result = score(mine, [make_example(mine, note(0, spans))], [ADVERSARIAL[name]])
    for suffix, (tp, fp, fn) in (("strict", strict), ("lenient", lenient)):
        assert result[f"span_precision_{suffix}"] == (tp / (tp + fp) if tp + fp else 0.0) and result[
            f"span_recall_{suffix}"
        ] == tp / (tp + fn)
    assert result["n_unaligned"] == unaligned


def test_gold_annotated_twice_counts_once(card):
    mine = card("ner")
    twice = Document("d", NOTE, (Mention("T1", "Problem", 24, 28), Mention("T2", "Problem", 24, 28)))
    assert NOTE[24:28] == "rash"
    result = score(mine, [make_example(mine, twice)], ["problem: rash\nproblem: rash"])
    assert (result["n_gold"], result["span_recall_strict"], result["span_precision_strict"]) == (1, 1.0, 0.5)
    assert result["text_set_f1"] == 1.0  # a set does not know how often


def test_labels_are_counted_apart_and_what_a_model_invents_is_not_named(card):
    mine = card("ner", labels=None)
    examples = [
        make_example(mine, note(0, [((24, 28), "Problem"), ((NOTE.index("statin"), NOTE.index("statin") + 6), "Drug")]))
    ]
    found = evaluate(mine, examples, ["Problem: rash\nDrug: cough\nZebulon: statin\nZebulon: fever\nno grammar"])
    assert found.labels == {
        "Drug": {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 1, "predicted": 1},
        "Problem": {"precision": 1.0, "recall": 1.0, "f1": 1.0, "support": 1, "predicted": 1},
        OTHER: {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 0, "predicted": 3},
    }


def test_labels_of_relations_and_of_choices(card):
    mine = card("re")
    spans = [
        ((24, 28), "Problem"),
        ((NOTE.index("statin"), NOTE.index("statin") + 6), "Drug"),
        ((NOTE.index("heparin"), NOTE.index("heparin") + 7), "Drug"),
    ]
    examples = [make_example(mine, note(0, spans, (Relation("Treats", "T1", "T0"), Relation("Causes", "T2", "T0"))))]
    found = evaluate(
        mine,
        examples,
        ["statin | treats | rash\nheparin | treats | rash\nheparin | causes | fever\nstatin | heals | rash"],
    )
    rows = {
        label: (row["precision"], row["recall"], row["support"], row["predicted"])
        for label, row in found.labels.items()
    }
    assert rows == {"Treats": (0.5, 1.0, 1, 2), "Causes": (0.0, 0.0, 1, 1), OTHER: (0.0, 0.0, 0, 1)}
    examples = [
        Example("mine", str(n), "d", 0, "", "", (), {"label": word, "options": ["yes", "no", "maybe"]})
        for n, word in enumerate(("yes", "yes", "no"))
    ]
    found = evaluate(card("qa"), examples, ["yes", "no", "?"])
    rows = {
        label: (row["precision"], row["recall"], row["support"], row["predicted"])
        for label, row in found.labels.items()
    }
    assert rows == {"yes": (1.0, 0.5, 2, 1), "no": (0.0, 0.0, 1, 1), "maybe": (1.0, 1.0, 0, 0)}


def test_plain_search_finds_what_regular_expressions_find():
    """The definition: whole words in this case, in any case, then parts of words likewise; a space of the mention
    is any whitespace.
    """
    import re

    from clinical_tasks.text_pairs.align import _Occurrences

    rng = random.Random(5)
    letters = [
        "a",
        "A",
        "b",
        "_",
        " ",
        "\n",
        " ",
        "\r\n",
        " \t ",
        "1",
        "-",
        "é",
        "É",
        "µ",
        "ß",
        "İ",
        "ı",
        "\u2028",
        "\x85",
    ]
    for number in range(1500):
        some = letters if number % 2 else letters[:11]
        text = "".join(rng.choices(some, k=rng.randint(0, 18)))
        mention = " ".join(
            (text[rng.randrange(len(text)) :] if text and rng.random() < 0.7 else "aB")[: rng.randint(1, 5)].split()
        )
        mention = mention.swapcase() if rng.random() < 0.3 else mention
        body = r"\s+".join(map(re.escape, mention.split()))
        for tier, (pattern, flags) in enumerate(
            (p, f) for p in (rf"(?<!\w){body}(?!\w)", body) for f in (re.NOFLAG, re.IGNORECASE)
        ):
            wanted = [match.span(1) for match in re.finditer(f"(?=({pattern}))", text, flags)] if body else []
            assert _Occurrences(text).tier(mention, tier) == wanted
