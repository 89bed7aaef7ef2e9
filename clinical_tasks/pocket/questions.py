"""Question answering and inference tasks: a note, what is asked about it, and the answer, as the release's own record."""

from __future__ import annotations

import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from clinical_tasks.pocket.notes import Draft

# A row: the note that is shown (no two splits share one) and the rest of the record under the release's names.
Row = tuple[str, dict[str, Any]]


@dataclass(frozen=True)
class Table:
    """A task over rows. `compose` drafts a note and asks; `record` lays a row out as the release does, given the row's id."""

    folder: str
    compose: Callable[[Draft], Row]
    record: Callable[[str, Row], dict[str, Any]]


def _options(draft: Draft, answer: str, others: Sequence[str], slot: str, count: int) -> list[str]:
    """The answer among others of the note and words of the same pool that the note does not hold, in random order."""
    options = [answer, *others][:count]
    while len(options) < count:
        options.append(draft.pick(slot))
    draft.rng.shuffle(options)
    return options


def _orders(draft: Draft) -> list[dict[str, str]]:
    """A patient with two orders and a sentence about something else."""
    draft.add("patient")
    orders = [draft.add("order") for _ in range(2)]
    draft.add(draft.choose(("denies", "family", "adverse", "lab_normal")))
    draft.scatter(1)
    return orders


def _which_drug(draft: Draft) -> Row:
    order, other = _orders(draft)
    question = draft.choose((f"which drug is given for {order['reason']} ?", f"what treats {order['reason']} ?"))
    options = _options(draft, order["drug"], [other["drug"]], "drug", 4)
    return draft.note().text, {"question": question, "options": options, "answer": options.index(order["drug"])}


def _which_detail(draft: Draft) -> Row:
    order, other = _orders(draft)
    slot, asked = draft.rng.choice((("strength", "what is the dose of"), ("frequency", "how often is")))
    question = f"{asked} {order['drug']} ?" if slot == "strength" else f"{asked} {order['drug']} taken ?"
    options = _options(draft, order[slot], [other[slot]], slot, 4)
    return draft.note().text, {"question": question, "options": options, "answer": options.index(order[slot])}


def _study(draft: Draft) -> Row:
    kinds = draft.rng.sample(("yes", "no", "maybe"), 2)
    draft.add("topic")
    asked, _ = (draft.add(f"study_{kind}") for kind in kinds)
    draft.scatter(1)
    question = f"does {asked['drug']} reduce {asked['problem']} ?"
    return draft.note().text, {"question": question, "answer": kinds[0], "conclusion": f"{asked['drug']} in {asked['problem']} : {kinds[0]} ."}


def _extract(draft: Draft) -> Row:
    order, _ = _orders(draft)
    slot, question = draft.rng.choice((
        ("strength", "what is the dose of {} ?"), ("frequency", "how often is {} taken ?"), ("reason", "why is {} taken ?")))
    note = draft.note()
    start = next(fact.spans[slot][0] for fact in note.facts if fact.words is order)
    return note.text, {"question": question.format(order["drug"]), "answer": order[slot], "start": start}


def _in_the_family(draft: Draft) -> Row:
    draft.add("patient")
    family = draft.add("family")
    others = [draft.add(draft.choose(("has", "denies", "possible")))["problem"] for _ in range(2)]
    draft.scatter(1)
    options = _options(draft, family["problem"], others, "problem", 5)
    question = draft.choose(("which problem runs in the family ?", f"what did the {family['relative']} have ?"))
    return draft.note().text, {"question": question, "options": options, "answer": options.index(family["problem"]),
                               "explanation": f"the {family['relative']} had {family['problem']} ."}


def _which_lab(draft: Draft) -> Row:
    draft.add("patient")
    kinds = draft.rng.sample(("high", "low", "normal"), 3)
    labs = [draft.add(f"lab_{kind}")["lab"] for kind in kinds]
    draft.scatter(1)
    options = _options(draft, labs[0], labs[1:], "lab", 4)
    return draft.note().text, {"question": f"which test is {kinds[0]} ?", "options": options, "answer": options.index(labs[0])}


def _has_it(draft: Draft) -> Row:
    """Entailment where the note says the same, contradiction where it says the opposite, neutral where it says nothing."""
    draft.add("patient")
    present, absent = draft.add("has")["problem"], draft.add("denies")["problem"]
    draft.add(draft.choose(("order", "lab_high", "lab_low", "reveals")))
    draft.scatter(1)
    label = draft.choose(("entailment", "neutral", "contradiction"))
    positive = draft.rng.random() < 0.5
    problem = draft.pick("problem") if label == "neutral" else present if positive == (label == "entailment") else absent
    return draft.note().text, {"hypothesis": f"the patient {'has' if positive else 'does not have'} {problem} .", "label": label}


_DIRECTIONS = {"activates": "increases", "inhibits": "decreases"}


def _gene_direction(draft: Draft) -> Row:
    draft.add("topic")
    kinds = draft.rng.sample(tuple(_DIRECTIONS), 2)
    facts = [draft.add(kind) for kind in kinds]
    draft.add(draft.choose(("unrelated", "treats", "study_no")))
    draft.scatter(1)
    label = draft.choose(("true", "false"))
    verb = _DIRECTIONS[kinds[0] if label == "true" else kinds[1]]
    return draft.note().text, {"hypothesis": f"{facts[0]['drug']} {verb} {facts[0]['gene']} .", "label": label}


def _treats_it(draft: Draft) -> Row:
    first, second = draft.add("treats"), draft.add("treats")
    draft.add(draft.choose(("harmless", "raises", "lowers")))
    draft.add(draft.choose(("compatible", "unrelated")))
    draft.scatter()
    label = draft.choose(("entails", "neutral"))
    problem = (first if label == "entails" else second)["problem"]
    return draft.note().text, {"hypothesis": f"{first['drug']} helps with {problem} .", "label": label}


def _discourse(draft: Draft) -> Row:
    """Same claim, opposite claim, what follows from it, or another drug's claim."""
    kind = draft.choose(("raises", "lowers"))
    draft.add("topic")
    draft.add("harmless")
    claim = draft.add(kind)
    draft.scatter(1)
    label = draft.choose(("entailment", "contrasting", "reasoning", "neutral"))
    verbs = {"raises": ("increases", "reduces"), "lowers": ("reduces", "increases")}[kind]
    need = {"raises": "low", "lowers": "high"}[kind]
    sentence = {
        "entailment": f"{claim['drug']} {verbs[0]} {claim['lab']} .",
        "contrasting": f"{claim['drug']} {verbs[1]} {claim['lab']} .",
        "reasoning": f"so {claim['drug']} may help when {claim['lab']} is {need} .",
        "neutral": f"{draft.pick('drug')} {draft.choose(verbs)} {draft.pick('lab')} .",
    }[label]
    return draft.note().text, {"hypothesis": sentence, "label": label}


def _radiology(draft: Draft) -> Row:
    draft.add("patient")
    facts = {True: draft.add("finding"), False: draft.add("no_finding")}
    draft.add(draft.choose(("finding", "no_finding")))
    draft.scatter(1)
    label = draft.choose(("entailment", "neutral", "contradiction"))
    positive = draft.rng.random() < 0.5
    fact = facts[positive == (label == "entailment")]
    finding = draft.pick("finding") if label == "neutral" else fact["finding"]
    side = fact["side"]
    return draft.note().text, {"hypothesis": f"a {side} {finding} is {'present' if positive else 'absent'} .", "label": label}


def _letters(row: Row) -> dict[str, str]:
    return dict(zip(string.ascii_uppercase, row[1]["options"], strict=False))


def _medqa_record(key: str, row: Row) -> dict[str, Any]:
    options, answer = _letters(row), string.ascii_uppercase[row[1]["answer"]]
    return {"id": key, "note": row[0], "question": row[1]["question"], "options": options, "answer": options[answer], "answer_idx": answer}


def _medmcqa_record(key: str, row: Row) -> dict[str, Any]:
    options = {f"op{letter.lower()}": text for letter, text in _letters(row).items()}
    return {"id": key, "note": row[0], "question": row[1]["question"], **options, "cop": row[1]["answer"] + 1}


def _pubmedqa_record(key: str, row: Row) -> dict[str, Any]:
    return {"$key": key, "QUESTION": row[1]["question"], "CONTEXTS": row[0].split("\n"), "LONG_ANSWER": row[1]["conclusion"],
            "final_decision": row[1]["answer"]}


def _squad_record(key: str, row: Row) -> dict[str, Any]:
    answer = {"text": row[1]["answer"], "answer_start": row[1]["start"]}
    return {"context": row[0], "qas": [{"id": key, "question": row[1]["question"], "answers": [answer]}]}


def _medbullets_record(key: str, row: Row) -> dict[str, Any]:
    options, letters = {f"op{letter.lower()}": text for letter, text in _letters(row).items()}, string.ascii_uppercase
    answer = row[1]["options"][row[1]["answer"]]
    return {"link": key, "question": f"{row[0]}\nquestion : {row[1]['question']}", **options, "answer_idx": letters[row[1]["answer"]],
            "answer": answer, "explanation": row[1]["explanation"]}


def _headqa_record(key: str, row: Row) -> dict[str, Any]:
    answers = [{"aid": str(number), "atext": text} for number, text in enumerate(row[1]["options"], start=1)]
    return {"qid": key, "qtext": f"{row[0]}\nquestion : {row[1]['question']}", "ra": str(row[1]["answer"] + 1), "answers": answers}


def _pair_record(id_name: str, note: str, hypothesis: str, label: str) -> Callable[[str, Row], dict[str, Any]]:
    """An inference release: id, the two texts and the label under the release's names."""

    def record(key: str, row: Row) -> dict[str, Any]:
        return {id_name: key, note: row[0], hypothesis: row[1]["hypothesis"], label: row[1]["label"]}

    return record


def _scitail_record(key: str, row: Row) -> dict[str, Any]:
    # The release has no header line and no id; a line break would end a row, so the premise stands on one line.
    return {"premise": row[0].replace("\n", " "), "hypothesis": row[1]["hypothesis"], "label": row[1]["label"]}


QUESTIONS: dict[str, Table] = {
    "pocket_medqa": Table("pocket_medqa", _which_drug, _medqa_record),
    "pocket_medmcqa": Table("pocket_medmcqa", _which_detail, _medmcqa_record),
    "pocket_pubmedqa": Table("pocket_pubmedqa", _study, _pubmedqa_record),
    "pocket_emrqa": Table("pocket_emrqa", _extract, _squad_record),
    "pocket_mednli": Table("pocket_mednli", _has_it, _pair_record("pairID", "sentence1", "sentence2", "gold_label")),
    "pocket_bionli": Table("pocket_bionli", _gene_direction, _pair_record("id", "supp_set", "conclusion", "label")),
    "pocket_scitail": Table("pocket_scitail", _treats_it, _scitail_record),
    "pocket_medbullets": Table("pocket_medbullets", _in_the_family, _medbullets_record),
    "pocket_headqa": Table("pocket_headqa", _which_lab, _headqa_record),
    "pocket_scinli": Table("pocket_scinli", _discourse, _pair_record("id", "sentence1", "sentence2", "label")),
    "pocket_radnli": Table("pocket_radnli", _radiology, _pair_record("pair_id", "sentence1", "sentence2", "gold_label")),
}
