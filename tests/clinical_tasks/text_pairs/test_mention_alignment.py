"""Mention texts back to spans."""

from __future__ import annotations

import pytest

from clinical_tasks.text_pairs.align import align_mentions

DRUG, PROBLEM = "drug", "problem"


@pytest.mark.parametrize(
    ("text", "mentions", "spans"),
    [
        # Repeats go to one occurrence each; one too many goes nowhere.
        ("pain, pain", [(PROBLEM, "pain")] * 3, [(0, 4), (6, 10), None]),
        # An occurrence before the previous mention is passed over.
        ("pain aspirin pain", [(DRUG, "aspirin"), (PROBLEM, "pain")], [(5, 12), (13, 17)]),
        # ... unless there is no later one: answers out of order still align.
        ("pain aspirin", [(DRUG, "aspirin"), (PROBLEM, "pain")], [(5, 12), (0, 4)]),
        # Whole words before parts of words, parts if nothing else is there.
        ("antipain pain", [(PROBLEM, "pain")], [(9, 13)]),
        ("antipain", [(PROBLEM, "pain")], [(4, 8)]),
        # The same case before another case.
        ("Pain pain", [(PROBLEM, "pain")], [(5, 9)]),
        ("Pain", [(PROBLEM, "pain")], [(0, 4)]),
        # Nested: the outer first, the inner inside it.
        ("breast cancer", [(PROBLEM, "breast cancer"), (PROBLEM, "cancer")], [(0, 13), (7, 13)]),
        # ... even if the inner one also occurs before.
        ("cancer or breast cancer", [(PROBLEM, "breast cancer"), (PROBLEM, "cancer")], [(10, 23), (17, 23)]),
        # One span under two types, but not twice under one.
        ("aspirin", [(DRUG, "aspirin"), (PROBLEM, "aspirin"), (DRUG, "aspirin")], [(0, 7), (0, 7), None]),
        # Line ends and runs of spaces in the note match the one space of the answer.
        ("chest \r\n  pain", [(PROBLEM, "chest pain")], [(0, 14)]),
        # Characters that a pattern would interpret.
        ("given (+)-MK 801. x", [(DRUG, "(+)-MK 801.")], [(6, 17)]),
        ("pain", [(PROBLEM, "cough"), (PROBLEM, "")], [None, None]),
    ],
)
def test_alignment(text, mentions, spans):
    assert align_mentions(text, mentions) == spans
