"""What question answering and inference tasks ask: which sentences a note of theirs has, and what is asked about it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from clinical_tasks.pocket.notes import Draft, Fact, Note

# A row: the note that is shown (no two splits share one) and the rest of the record under names of our own.
Row = tuple[str, dict[str, Any]]


@dataclass(frozen=True)
class Inquiry:
    """Notes about which something can be asked, any number of times: `ask` reads what the note states and draws one
    question.
    """

    write: Callable[[Draft], None]
    ask: Callable[[Draft, Note], dict[str, Any]]

    def rows(self, draft: Draft, count: int = 1) -> list[Row]:
        """One note, and so many questions about it (the same may come twice)."""
        self.write(draft)
        note = draft.note()
        return [(note.text, self.ask(draft, note)) for _ in range(count)]

    def row(self, draft: Draft) -> Row:
        """One note and one question."""
        return self.rows(draft)[0]


def _facts(note: Note, *kinds: str) -> list[Fact]:
    return [fact for fact in note.facts if fact.kind in kinds]


def _shuffled(draft: Draft, facts: Sequence[Fact]) -> list[Fact]:
    return draft.rng.sample(facts, len(facts))


def _options(draft: Draft, answer: str, others: Sequence[str], slot: str, count: int) -> list[str]:
    """The answer among others of the note and words of the same pool that the note does not hold, in random order."""
    options = [answer, *others][:count]
    while len(options) < count:
        options.append(draft.unused(slot, options))
    draft.rng.shuffle(options)
    return options


def _orders(draft: Draft) -> None:
    """A patient with two orders and a sentence about something else."""
    draft.add("patient")
    for _ in range(2):
        draft.add("order")
    draft.add(draft.choose(("denies", "family", "adverse", "lab_normal")))
    draft.scatter(1)


def _which_drug(draft: Draft, note: Note) -> dict[str, Any]:
    order, other = (fact.words for fact in _shuffled(draft, _facts(note, "order")))
    question = draft.choose((f"which drug is given for {order['reason']} ?", f"what treats {order['reason']} ?"))
    options = _options(draft, order["drug"], [other["drug"]], "drug", 4)
    return {"question": question, "options": options, "answer": options.index(order["drug"])}


def _which_detail(draft: Draft, note: Note) -> dict[str, Any]:
    order, other = (fact.words for fact in _shuffled(draft, _facts(note, "order")))
    slot, question = draft.rng.choice(
        (("strength", "what is the dose of {} ?"), ("frequency", "how often is {} taken ?"))
    )
    question = question.format(order["drug"])
    options = _options(draft, order[slot], [other[slot]], slot, 4)
    return {"question": question, "options": options, "answer": options.index(order[slot])}


def _studies(draft: Draft) -> None:
    draft.add("topic")
    for kind in draft.rng.sample(("study_yes", "study_no", "study_maybe"), 2):
        draft.add(kind)
    draft.scatter(1)


def _study(draft: Draft, note: Note) -> dict[str, Any]:
    fact = draft.rng.choice(_facts(note, "study_yes", "study_no", "study_maybe"))
    drug, problem, answer = fact.words["drug"], fact.words["problem"], fact.kind.removeprefix("study_")
    return {
        "question": f"does {drug} reduce {problem} ?",
        "answer": answer,
        "conclusion": f"{drug} in {problem} : {answer} .",
    }


def _extract(draft: Draft, note: Note) -> dict[str, Any]:
    order = draft.rng.choice(_facts(note, "order"))
    slot, question = draft.rng.choice(
        (
            ("strength", "what is the dose of {} ?"),
            ("frequency", "how often is {} taken ?"),
            ("reason", "why is {} taken ?"),
        )
    )
    return {
        "question": question.format(order.words["drug"]),
        "answer": order.words[slot],
        "start": order.spans[slot][0],
    }


def _relatives(draft: Draft) -> None:
    draft.add("patient")
    draft.add("family")
    for _ in range(2):
        draft.add(draft.choose(("has", "denies", "possible")))
    draft.scatter(1)


def _in_the_family(draft: Draft, note: Note) -> dict[str, Any]:
    (family,) = (fact.words for fact in _facts(note, "family"))
    others = [fact.words["problem"] for fact in _shuffled(draft, _facts(note, "has", "denies", "possible"))]
    options = _options(draft, family["problem"], others, "problem", 5)
    question = draft.choose(("which problem runs in the family ?", f"what did the {family['relative']} have ?"))
    return {
        "question": question,
        "options": options,
        "answer": options.index(family["problem"]),
        "explanation": f"the {family['relative']} had {family['problem']} .",
    }


def _labs(draft: Draft) -> None:
    draft.add("patient")
    for kind in draft.rng.sample(("lab_high", "lab_low", "lab_normal"), 3):
        draft.add(kind)
    draft.scatter(1)


def _which_lab(draft: Draft, note: Note) -> dict[str, Any]:
    asked, *others = _shuffled(draft, _facts(note, "lab_high", "lab_low", "lab_normal"))
    options = _options(draft, asked.words["lab"], [fact.words["lab"] for fact in others], "lab", 4)
    return {
        "question": f"which test is {asked.kind.removeprefix('lab_')} ?",
        "options": options,
        "answer": options.index(asked.words["lab"]),
    }


def _problems(draft: Draft) -> None:
    draft.add("patient")
    draft.add("has")
    draft.add("denies")
    draft.add(draft.choose(("order", "lab_high", "lab_low", "reveals")))
    draft.scatter(1)


def _has_it(draft: Draft, note: Note) -> dict[str, Any]:
    """Entailment where the note says the same, contradiction where it says the opposite, neutral where it says
    nothing.
    """
    (present,), (absent,) = _facts(note, "has"), _facts(note, "denies")
    label = draft.choose(("entailment", "neutral", "contradiction"))
    positive = draft.rng.random() < 0.5
    if label == "neutral":
        problem = draft.unused("problem")
    elif positive == (label == "entailment"):
        problem = present.words["problem"]
    else:
        problem = absent.words["problem"]
    verb = "has" if positive else "does not have"
    return {"hypothesis": f"the patient {verb} {problem} .", "label": label}


_DIRECTIONS = {"activates": "increases", "inhibits": "decreases"}


def _gene_findings(draft: Draft) -> None:
    draft.add("topic")
    for kind in draft.rng.sample(tuple(_DIRECTIONS), 2):
        draft.add(kind)
    draft.add(draft.choose(("unrelated", "treats", "study_no")))
    draft.scatter(1)


def _gene_direction(draft: Draft, note: Note) -> dict[str, Any]:
    asked, other = _shuffled(draft, _facts(note, *_DIRECTIONS))
    label = draft.choose(("true", "false"))
    told = asked if label == "true" else other
    verb = _DIRECTIONS[told.kind]
    return {"hypothesis": f"{asked.words['drug']} {verb} {asked.words['gene']} .", "label": label}


def _treatments(draft: Draft) -> None:
    draft.add("treats")
    draft.add("treats")
    draft.add(draft.choose(("harmless", "raises", "lowers")))
    draft.add(draft.choose(("compatible", "unrelated")))
    draft.scatter()


def _treats_it(draft: Draft, note: Note) -> dict[str, Any]:
    first, second = _shuffled(draft, _facts(note, "treats"))
    label = draft.choose(("entails", "neutral"))
    told = first if label == "entails" else second
    return {"hypothesis": f"{first.words['drug']} helps with {told.words['problem']} .", "label": label}


def _claims(draft: Draft) -> None:
    draft.add("topic")
    draft.add("harmless")
    draft.add(draft.choose(("raises", "lowers")))
    draft.scatter(1)


def _discourse(draft: Draft, note: Note) -> dict[str, Any]:
    """Same claim, opposite claim, what follows from it, or another drug's claim."""
    (claim,) = _facts(note, "raises", "lowers")
    label = draft.choose(("entailment", "contrasting", "reasoning", "neutral"))
    verbs = {"raises": ("increases", "reduces"), "lowers": ("reduces", "increases")}[claim.kind]
    need = {"raises": "low", "lowers": "high"}[claim.kind]
    drug, lab = claim.words["drug"], claim.words["lab"]
    sentence = {
        "entailment": f"{drug} {verbs[0]} {lab} .",
        "contrasting": f"{drug} {verbs[1]} {lab} .",
        "reasoning": f"so {drug} may help when {lab} is {need} .",
        "neutral": f"{draft.unused('drug')} {draft.choose(verbs)} {draft.unused('lab')} .",
    }[label]
    return {"hypothesis": sentence, "label": label}


def _findings(draft: Draft) -> None:
    draft.add("patient")
    draft.add("finding")
    draft.add("no_finding")
    draft.add(draft.choose(("finding", "no_finding")))
    draft.scatter(1)


def _radiology(draft: Draft, note: Note) -> dict[str, Any]:
    label = draft.choose(("entailment", "neutral", "contradiction"))
    positive = draft.rng.random() < 0.5
    kind = "finding" if positive == (label == "entailment") else "no_finding"
    fact = draft.rng.choice(_facts(note, kind))
    finding = draft.unused("finding") if label == "neutral" else fact.words["finding"]
    state = "present" if positive else "absent"
    return {"hypothesis": f"a {fact.words['side']} {finding} is {state} .", "label": label}


INQUIRIES: dict[str, Inquiry] = {
    "pocket_medqa": Inquiry(_orders, _which_drug),
    "pocket_medmcqa": Inquiry(_orders, _which_detail),
    "pocket_pubmedqa": Inquiry(_studies, _study),
    "pocket_emrqa": Inquiry(_orders, _extract),
    "pocket_mednli": Inquiry(_problems, _has_it),
    "pocket_bionli": Inquiry(_gene_findings, _gene_direction),
    "pocket_scitail": Inquiry(_treatments, _treats_it),
    "pocket_medbullets": Inquiry(_relatives, _in_the_family),
    "pocket_headqa": Inquiry(_labs, _which_lab),
    "pocket_scinli": Inquiry(_claims, _discourse),
    "pocket_radnli": Inquiry(_findings, _radiology),
}
