"""Invented notes: sentences drawn from templates, and the facts that they state, with character offsets."""

from __future__ import annotations

import random
import string
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from clinical_tasks.pocket.lexicon import POOLS, REPEATABLE, SLOT_POOLS
from clinical_tasks.pocket.sentences import HEADERS, KINDS

# A third of the notes name the section of each sentence that belongs to one.
_SECTIONED = 1 / 3
GENERAL_KINDS = (
    "has",
    "denies",
    "possible",
    "family",
    "allergy",
    "adverse",
    "order",
    "medication",
    "dispensed",
    "reveals",
    "procedure",
    "move",
    "lab_high",
    "lab_low",
    "lab_normal",
    "tobacco",
    "alcohol",
    "illicit",
    "employment",
    "living",
    "finding",
)


@dataclass(frozen=True)
class Fact:
    """One sentence: its kind, and for each slot its words and where they stand in the note (start inclusive, end
    exclusive).
    """

    kind: str
    words: dict[str, str]
    spans: dict[str, tuple[int, int]]


@dataclass(frozen=True)
class Note:
    """A note and the facts it states, in text order; one sentence a line."""

    text: str
    facts: tuple[Fact, ...]


class Draft:
    """A note in the making: draws words without replacement and collects sentences."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self._used: set[str] = set()
        self._plan: list[tuple[str, str, dict[str, str]]] = []

    def pick(self, slot: str) -> str:
        """Words for a slot that this note does not hold yet (unless they may repeat), in one of their surface forms."""
        entry = self._free(slot)
        if slot not in REPEATABLE:
            self._used.add(entry)
        return self.rng.choice(entry.split("/"))

    def unused(self, slot: str, beside: Sequence[str] = ()) -> str:
        """Words that the note does not hold, and that are no form of what stands `beside` them; drawing them does
        not use them up.
        """
        while {*(entry := self._free(slot)).split("/")} & {*beside}:
            pass
        return self.rng.choice(entry.split("/"))

    def _free(self, slot: str) -> str:
        pool = POOLS[SLOT_POOLS.get(slot, slot)]
        while (entry := self.rng.choice(pool)) in self._used:
            pass
        return entry

    def choose(self, kinds: Sequence[str]) -> str:
        """One of several kinds of sentence."""
        return self.rng.choice(kinds)

    def add(self, kind: str, **words: str) -> dict[str, str]:
        """Add a sentence of a kind; slots not given are drawn. Returns the words of all its slots."""
        template = self.rng.choice(KINDS[kind])
        filled = {slot: words.get(slot) or self.pick(slot) for _, slot in _parts(template) if slot}
        self._plan.append((kind, template, filled))
        return filled

    def scatter(self, first: int = 0) -> None:
        """Shuffle the sentences added so far, except the first ones."""
        rest = self._plan[first:]
        self.rng.shuffle(rest)
        self._plan[first:] = rest

    def note(self, sections: bool = True) -> Note:
        """The text with its facts."""
        sectioned = sections and self.rng.random() < _SECTIONED
        text, facts = "", []
        for kind, template, words in self._plan:
            if text:
                text += "\n"
            if sectioned and kind in HEADERS:
                text += f"{HEADERS[kind]} : "
            spans = {}
            for literal, slot in _parts(template):
                text += literal
                if slot:
                    spans[slot] = (len(text), len(text) + len(words[slot]))
                    text += words[slot]
            facts.append(Fact(kind, words, spans))
        return Note(text, tuple(facts))


@cache
def _parts(template: str) -> tuple[tuple[str, str], ...]:
    """(literal text, slot that follows it or nothing)."""
    return tuple((literal, slot or "") for literal, slot, _, _ in string.Formatter().parse(template))


def generator(seed: int, index: int, purpose: str) -> random.Random:
    """The random numbers of one note; the same on every machine, whatever was drawn before."""
    return random.Random(f"pocket {purpose} {seed} {index}")


def write_note(seed: int, index: int) -> Note:
    """A general note: who it is, then three to five sentences of any kind. Depends on `seed` and `index` alone."""
    draft = Draft(generator(seed, index, "note"))
    draft.add("patient")
    for kind in draft.rng.sample(GENERAL_KINDS, draft.rng.randint(3, 5)):
        draft.add(kind)
    return draft.note()
