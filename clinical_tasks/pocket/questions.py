"""Question answering and inference tasks: a note, what is asked about it, and the answer, as the release's own
record.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from clinical_tasks.pocket.notes import Draft, Fact, Note

# A row: the note that is shown (no two splits share one) and the rest of the record under the release's names.
Row = tuple[str, dict[str, Any]]


@dataclass(frozen=True)
class Table:
    """A task over rows. `compose` drafts a note and asks; `record` lays a row out as the release does, given the
    row's id.
    """

    folder: str
    compose: Callable[[Draft], Row]
    record: Callable[[str, Row], dict[str, Any]]


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
    slot, asked = draft.rng.choice((("strength", "what is the dose of"), ("frequency", "how often is")))
    question = f"{asked} {order['drug']} ?" if slot == "strength" else f"{asked} {order['drug']} taken ?"
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
    stated = present if positive == (label == "entailment") else absent
    problem = draft.unused("problem") if label == "neutral" else stated.words["problem"]
    return {"hypothesis": f"the patient {'has' if positive else 'does not have'} {problem} .", "label": label}


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
    verb = _DIRECTIONS[(asked if label == "true" else other).kind]
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
    problem = (first if label == "entails" else second).words["problem"]
    return {"hypothesis": f"{first.words['drug']} helps with {problem} .", "label": label}


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
    fact = draft.rng.choice(_facts(note, "finding" if positive == (label == "entailment") else "no_finding"))
    finding = draft.unused("finding") if label == "neutral" else fact.words["finding"]
    return {
        "hypothesis": f"a {fact.words['side']} {finding} is {'present' if positive else 'absent'} .",
        "label": label,
    }


def _letters(row: Row) -> dict[str, str]:
    return dict(zip(string.ascii_uppercase, row[1]["options"], strict=False))


def _columns(row: Row) -> dict[str, str]:
    """The options as most tables name them: opa, opb, ..."""
    return {f"op{letter.lower()}": text for letter, text in _letters(row).items()}


def _asked(row: Row) -> str:
    """Exam questions tell the case themselves."""
    return f"{row[0]}\nquestion : {row[1]['question']}"


def _medqa_record(key: str, row: Row) -> dict[str, Any]:
    options, answer = _letters(row), string.ascii_uppercase[row[1]["answer"]]
    return {
        "question": _asked(row),
        "answer": options[answer],
        "options": options,
        "meta_info": "step1",
        "answer_idx": answer,
        "metamap_phrases": [],
    }


def _medmcqa_record(key: str, row: Row) -> dict[str, Any]:
    return {
        "question": _asked(row),
        "exp": None,
        "cop": row[1]["answer"] + 1,
        **_columns(row),
        "subject_name": "Pharmacology",
        "topic_name": None,
        "id": key,
        "choice_type": "single",
    }


def _pubmedqa_record(key: str, row: Row) -> dict[str, Any]:
    return {
        "$key": key,
        "QUESTION": row[1]["question"],
        "CONTEXTS": row[0].split("\n"),
        "LONG_ANSWER": row[1]["conclusion"],
        "final_decision": row[1]["answer"],
    }


def _emrqa_record(key: str, row: Row) -> dict[str, Any]:
    """The note by lines, its one question as a list of paraphrases; lines and tokens of the places count from 1 and
    0.
    """
    note, start = row[0], row[1]["start"]
    begin = note.rfind("\n", 0, start) + 1
    line = note.count("\n", 0, start)
    answer = {
        "text": row[1]["answer"],
        "answer_start": [line + 1, note.count(" ", begin, start)],
        "evidence": note.split("\n")[line],
        "evidence_start": line + 1,
        "answer_entity_type": "single",
    }
    return {
        "$parent": {"note_id": key},
        "context": note.split("\n"),
        "id": key,
        "question": [row[1]["question"]],
        "answers": [answer],
    }


def _medbullets_record(key: str, row: Row) -> dict[str, Any]:
    return {
        "link": key,
        "question": _asked(row),
        **_columns(row),
        "answer_idx": string.ascii_uppercase[row[1]["answer"]],
        "answer": row[1]["options"][row[1]["answer"]],
        "explanation": row[1]["explanation"],
    }


def _headqa_record(key: str, row: Row) -> dict[str, Any]:
    """Several exams to a file; each counts its questions from 1."""
    exam, number = divmod(int(key), 25)
    answers = [{"aid": str(aid), "atext": text} for aid, text in enumerate(row[1]["options"], start=1)]
    return {
        "$parent": {"$key": f"pocket_exam_{exam}"},
        "qid": str(number + 1),
        "qtext": _asked(row),
        "ra": str(row[1]["answer"] + 1),
        "answers": answers,
    }


def _pair_record(id_name: str, note: str, hypothesis: str, label: str) -> Callable[[str, Row], dict[str, Any]]:
    """An inference release: id, the two texts and the label under the release's names."""

    def record(key: str, row: Row) -> dict[str, Any]:
        return {id_name: key, note: row[0], hypothesis: row[1]["hypothesis"], label: row[1]["label"]}

    return record


# How the release marks a conclusion that was made false; "pos" is one that was left as it was.
_PERTURBATIONS = ("SRE", "negToPos", "posToNeg", "LPR")


def _bionli_record(key: str, row: Row) -> dict[str, Any]:
    category = "pos" if row[1]["label"] == "true" else _PERTURBATIONS[int(key) % len(_PERTURBATIONS)]
    return {"index": key, "pmid": key, "supp_set": row[0], "conclusion": row[1]["hypothesis"], "label_cat": category}


def _scitail_record(key: str, row: Row) -> dict[str, Any]:
    # The release has no header line and no id; a line break would end a row, so the premise stands on one line.
    return {"premise": row[0].replace("\n", " "), "hypothesis": row[1]["hypothesis"], "label": row[1]["label"]}


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

_RECORDS: dict[str, Callable[[str, Row], dict[str, Any]]] = {
    "pocket_medqa": _medqa_record,
    "pocket_medmcqa": _medmcqa_record,
    "pocket_pubmedqa": _pubmedqa_record,
    "pocket_emrqa": _emrqa_record,
    "pocket_mednli": _pair_record("pairID", "sentence1", "sentence2", "gold_label"),
    "pocket_bionli": _bionli_record,
    "pocket_scitail": _scitail_record,
    "pocket_medbullets": _medbullets_record,
    "pocket_headqa": _headqa_record,
    "pocket_scinli": _pair_record("id", "sentence1", "sentence2", "label"),
    "pocket_radnli": _pair_record("pair_id", "sentence1", "sentence2", "gold_label"),
}

QUESTIONS: dict[str, Table] = {name: Table(name, inquiry.row, _RECORDS[name]) for name, inquiry in INQUIRIES.items()}
