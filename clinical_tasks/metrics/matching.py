"""Rules by which predictions are matched to gold annotations of one document and one type, where several may touch the
same one.

Each takes what touches what, and returns true positives, false positives and false negatives. Annotations are in text
order and unique; the scripts that two of the rules are named after take them in the order of their files, which is text
order as a rule.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from clinical_tasks.metrics.counts import Counts

# For each prediction the gold annotations (indices, ascending) that it touches; the number of gold annotations.
Hits = Sequence[Sequence[int]]
Item = TypeVar("Item")
# The card's `duplicates` -> the rule.
DUPLICATES = {"discard": "n2c2_2018", "penalise": "brat_scoring", "set": "exact_first"}


def lenient(gold: Sequence[Item], predicted: Sequence[Item], touch: Callable[[Item, Item], bool]) -> dict[str, Counts]:
    """Counts under every rule, of annotations in text order."""
    hits = []
    for one in predicted:
        hits.append([number for number, other in enumerate(gold) if touch(one, other)])
    places = {item: number for number, item in enumerate(gold)}
    return {
        "n2c2_2018": n2c2_2018(hits, len(gold)),
        "brat_scoring": brat_scoring(hits, len(gold)),
        "exact_first": exact_first(hits, len(gold), [places.get(item) for item in predicted]),
    }


def n2c2_2018(hits: Hits, n_gold: int) -> Counts:
    """The script of n2c2-2018 track 2: a prediction that touches a gold annotation which an earlier one touched is
    dropped.

    It neither helps nor harms, even if it also touches another gold annotation, and even if it is exact: the gold
    annotations themselves lose score where two of one type overlap.
    """
    seen: set[int] = set()
    tp = fp = 0
    for found in hits:
        tp += bool(found) and seen.isdisjoint(found)
        fp += not found
        seen.update(found)
    return Counts(tp, fp, n_gold - tp)


def brat_scoring(hits: Hits, n_gold: int) -> Counts:
    """The package brat_scoring (n2c2-2022): each gold annotation takes the first free prediction that touches it;
    all others are false.
    """
    by_gold: list[list[int]] = [[] for _ in range(n_gold)]
    for number, found in enumerate(hits):
        for index in found:
            by_gold[index].append(number)
    taken: set[int] = set()
    for candidates in by_gold:
        for number in candidates:
            if number not in taken:
                taken.add(number)
                break
    return Counts(len(taken), len(hits) - len(taken), n_gold - len(taken))


def exact_first(hits: Hits, n_gold: int, exact: Sequence[int | None]) -> Counts:
    """Exact matches first (`exact`: for each prediction the gold annotation equal to it), then each prediction
    takes the first free one.
    """
    free = set(range(n_gold)).difference(exact)
    rest = [found for found, same in zip(hits, exact, strict=True) if same is None]
    fp = 0
    for found in rest:
        hit = next((index for index in found if index in free), None)
        if hit is None:
            fp += 1
        else:
            free.remove(hit)
    return Counts(n_gold - len(free), fp, len(free))
