"""What a pocket backbone is pre-trained on: a note, and one or several questions about it, each with its answer.

A one-word answer teaches little for the reading of a whole note, so questions and inferences come several to a note.
Drills, which are no task of the corpus, teach what the harder tasks are made of: to find an answer in the note, to name
an option's letter, to see whether something stands in the note at all, and in which sentence. `BUILDS_ON` says what is
to be learnt before what.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import count
from typing import NamedTuple

from clinical_tasks.pocket.corpus import FIRST_PRETRAINING_INDEX, TASKS, draw, example_of, pocket_card, share_of
from clinical_tasks.pocket.inquiries import INQUIRIES
from clinical_tasks.pocket.notes import Draft, Fact, Note, generator
from clinical_tasks.schema import Example

# Where a further question about the same note begins in a task's input text.
_MARKS = ("\nquestion : ", "\nhypothesis : ")
# Draws a question and its answer, as often as it is called.
Asks = Callable[[], tuple[str, str]]
# The most questions that a lesson asks about a note.
MOST = 5
_ASKABLE = (
    ("strength", "what is the dose of {drug} ?"),
    ("frequency", "how often is {drug} taken ?"),
    ("reason", "why is {drug} taken ?"),
    ("drug", "which drug is given for {reason} ?"),
    ("drug", "what treats {reason} ?"),
)


class Lesson(NamedTuple):
    """The task or drill, its written instruction, and its turns: input text and answer text."""

    name: str
    instruction: str
    turns: list[tuple[str, str]]


def _questions_in_words(draft: Draft) -> tuple[str, Asks]:
    """A note with orders, labs and a relative's problem; what is asked is answered in its words."""
    note = _full_note(draft)
    facts = [fact for fact in note.facts if fact.kind not in ("patient", "has", "denies")]
    return note.text, lambda: _asked_in_words(draft, draft.rng.choice(facts))


def _sentences(draft: Draft) -> tuple[str, Asks]:
    """The same notes; asked for by a word, a whole sentence is the answer."""
    note = _full_note(draft)
    places = []
    for fact in note.facts[1:]:
        for slot, span in fact.spans.items():
            places.append((fact.words[slot], span))

    def ask() -> tuple[str, str]:
        words, (start, _) = draft.rng.choice(places)
        begin = note.text.rfind("\n", 0, start) + 1
        return f"what is in the note with {words} ?", note.text[begin:].partition("\n")[0]

    return note.text, ask


def _full_note(draft: Draft) -> Note:
    draft.add("patient")
    for kind in (
        "order",
        "order",
        draft.choose(("order", "has", "denies")),
        "family",
        *draft.rng.sample(("lab_high", "lab_low", "lab_normal"), 2),
    ):
        draft.add(kind)
    draft.scatter(1)
    return draft.note()


def _asked_in_words(draft: Draft, fact: Fact) -> tuple[str, str]:
    if fact.kind == "order":
        slot, question = draft.rng.choice(_ASKABLE)
        return question.format(**fact.words), fact.words[slot]
    if fact.kind == "family":
        return draft.choose(
            ("which problem runs in the family ?", f"what did the {fact.words['relative']} have ?")
        ), fact.words["problem"]
    return f"which test is {fact.kind.removeprefix('lab_')} ?", fact.words["lab"]


def _letters(draft: Draft) -> tuple[str, Asks]:
    """A few words to read, then options of one kind, of which one is named."""
    draft.add("patient")

    def ask() -> tuple[str, str]:
        pool, size = draft.choose(("drug", "problem", "lab", "strength", "frequency")), draft.rng.randint(4, 5)
        options: list[str] = []
        while len(options) < size:
            options.append(draft.unused(pool, options))
        asked = draft.rng.randrange(size)
        lines = "\n".join(f"{letter} {text}" for letter, text in zip("ABCDE", options, strict=False))
        return f"which option is {options[asked]} ?\n{lines}", "ABCDE"[asked]

    return draft.note().text, ask


def _mentions(draft: Draft) -> tuple[str, Asks]:
    """A note, and words of it or words that it does not hold."""
    draft.add("patient")
    for kind in draft.rng.sample(("has", "denies", "adverse", "order", "lab_high", "finding", "inhibits", "raises"), 3):
        draft.add(kind)
    draft.scatter(1)
    note = draft.note()
    named = []
    for fact in note.facts:
        for slot, words in fact.words.items():
            if slot not in ("age", "sex", "size", "side", "value"):
                named.append((slot, words))

    def ask() -> tuple[str, str]:
        slot, words = draft.rng.choice(named)
        if draft.rng.random() < 0.5:
            return f"is {words} in the note ?", "yes"
        return f"is {draft.unused(slot)} in the note ?", "no"

    return note.text, ask


# Instruction, and what writes a note and asks about it.
DRILLS: dict[str, tuple[str, Callable[[Draft], tuple[str, Asks]]]] = {
    "drill_words": ("answer the question in the words of the note", _questions_in_words),
    "drill_letters": ("name the letter of the option", _letters),
    "drill_mentions": ("say yes or no : is it in the note", _mentions),
    "drill_sentences": ("answer the question in the words of the note", _sentences),
}
LESSONS = (*TASKS, *DRILLS)
# What is to be learnt before what: a task is hard to learn beside thirty others before its parts are there.
BUILDS_ON: dict[str, tuple[str, ...]] = dict.fromkeys(TASKS, ("drill_letters", "drill_mentions"))


def lessons(seed: int, n: int | None = None, names: Sequence[str] = LESSONS, most: int = MOST) -> Iterator[Lesson]:
    """`n` lessons or without end, names at random, with 1 to `most` questions to a note where several can be asked, a
    drill's always `most`.

    No note here is in the validation or test split of a corpus of any seed. Deterministic: the same arguments give the
    same lessons.
    """
    made = 0
    for index in count(FIRST_PRETRAINING_INDEX):
        if made == n:
            return
        rng = generator(seed, index, "task")
        name = rng.choice(names)
        questions = rng.randint(1, most)
        text, lesson = _lesson(name, seed, index, questions=most if name in DRILLS else questions)
        if share_of(text) == "train":
            made += 1
            yield lesson


def _lesson(name: str, seed: int, index: int, questions: int) -> tuple[str, Lesson]:
    """A note's text and the lesson about it."""
    if name in DRILLS:
        instruction, compose = DRILLS[name]
        text, ask = compose(Draft(generator(seed, index, name)))
        asked = [ask() for _ in range(questions)]
        turns = [(f"question : {question}\nanswer :", answer) for question, answer in asked]
        return text, Lesson(name, instruction, [(f"{text}\n{turns[0][0]}", turns[0][1]), *turns[1:]])
    card = pocket_card(name)
    if name in INQUIRIES:
        rows = INQUIRIES[name].rows(Draft(generator(seed, index, card.folder)), questions)
        text, examples = rows[0][0], [example_of(name, index, row) for row in rows]
    else:
        text, drawn = draw(card.folder, seed, index)
        examples = [example_of(name, index, drawn)]
    further = [(_further(example), example.answer_text) for example in examples[1:]]
    return text, Lesson(name, card.instruction, [(examples[0].input_text, examples[0].answer_text), *further])


def _further(example: Example) -> str:
    """The part of an input text that follows the note."""
    begin = max(example.input_text.rfind(mark) for mark in _MARKS)
    return example.input_text[begin + 1 :]


def instruction_pairs(
    seed: int, n: int | None = None, tasks: Sequence[str] = TASKS
) -> Iterator[tuple[str, str, str, str]]:
    """(task, instruction, input text, answer text): lessons of one question."""
    for name, instruction, ((text, answer),) in lessons(seed, n, names=tasks, most=1):
        yield name, instruction, text, answer
