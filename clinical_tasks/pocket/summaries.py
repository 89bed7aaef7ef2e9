"""Summarization tasks: findings, consumer questions, conversations and progress notes, each with the short text
that it comes to.
"""

from __future__ import annotations

from typing import Any

from clinical_tasks.pocket.notes import Draft, generator
from clinical_tasks.pocket.questions import Row, Table


def _impression(draft: Draft) -> Row:
    """Background and findings; the impression lists the abnormal ones in their order."""
    background = f"{draft.pick('age')} year old {draft.pick('sex')} with {draft.pick('problem')} ."
    for kind in draft.rng.choice(
        (("finding", "no_finding", "no_finding"), ("finding", "finding", "no_finding"), ("no_finding",) * 3)
    ):
        draft.add(kind)
    draft.scatter()
    note = draft.note()
    abnormal = []
    for fact in note.facts:
        if fact.kind == "finding":
            abnormal.append(f"{fact.words['size']} {fact.words['side']} {fact.words['finding']}")
    impression = " and ".join(abnormal) or "no acute findings"
    return note.text, {"background": background, "impression": f"{impression} ."}


def _consumer_question(draft: Draft) -> Row:
    drug, strength, problem, ade = (draft.pick(slot) for slot in ("drug", "strength", "problem", "problem"))
    who = draft.choose(
        (
            f"i am a {draft.pick('age')} year old {draft.pick('sex')} .",
            f"my {draft.pick('relative')} told me to ask you .",
        )
    )
    usual = draft.choose(
        (
            f"i take {drug} {strength} {draft.pick('frequency')} for {problem} .",
            f"for {problem} i was given {drug} {strength} {draft.pick('frequency')} .",
        )
    )
    concern, question = draft.rng.choice(
        (
            (f"now i have {ade} and fear the pills .", f"can {drug} cause {ade} ?"),
            (f"it helps but i do not want {drug} anymore .", f"what else treats {problem} ?"),
            (f"i want to stop it before my trip with {ade} .", f"can i stop {drug} ?"),
        )
    )
    opening, closing = (
        draft.choose(("hello doctor .", "good morning .", "dear doctor .")),
        draft.choose(("thank you .", "please help .")),
    )
    return "\n".join((opening, who, usual, concern, closing)), {"summary": question}


# Topic: what the doctor asks, what the patient answers, what the note says.
_TOPICS: dict[str, tuple[tuple[str, ...], tuple[str, ...], str]] = {
    "complaint": (
        ("what brings you in ?", "what is wrong today ?"),
        ("i have had {problem} for {duration} .", "for {duration} i have {problem} ."),
        "{problem} for {duration} .",
    ),
    "medications": (
        ("what medicine do you take ?", "any drugs at home ?"),
        ("i take {drug} {strength} {frequency} .", "only {drug} , {strength} , {frequency} ."),
        "{drug} {strength} {frequency} .",
    ),
    "allergies": (
        ("are you allergic to anything ?", "any allergies ?"),
        ("yes , {drug} gives me {reaction} .", "i got {reaction} from {drug} ."),
        "{drug} causes {reaction} .",
    ),
}
_SLOTS = {
    "complaint": ("problem", "duration"),
    "medications": ("drug", "strength", "frequency"),
    "allergies": ("drug", "reaction"),
}


def _talk(draft: Draft, topics: list[str]) -> tuple[list[str], dict[str, str]]:
    """The turns of a conversation over the topics, and what a note says under each."""
    turns, sections = [draft.choose(("doctor : hello .", "doctor : good morning .", "doctor : please sit down ."))], {}
    for topic in topics:
        questions, answers, section = _TOPICS[topic]
        words = {slot: draft.pick(slot) for slot in _SLOTS[topic]}
        turns += [f"doctor : {draft.choose(questions)}", f"patient : {draft.choose(answers).format(**words)}"]
        sections[topic] = section.format(**words)
    return turns, sections


def _one_section(draft: Draft) -> Row:
    topics = draft.rng.sample(tuple(_TOPICS), 2)
    turns, sections = _talk(draft, topics)
    asked = draft.choose(topics)
    return "\n".join(turns), {"section": asked, "text": sections[asked]}


def _whole_note(draft: Draft) -> Row:
    """All topics, talked about in any order, written in the order of a note."""
    turns, sections = _talk(draft, draft.rng.sample(tuple(_TOPICS), 3))
    return "\n".join(turns), {"text": "\n".join(f"{topic} : {sections[topic]}" for topic in _TOPICS)}


def _problem_list(draft: Draft) -> Row:
    """What the patient has, not what is denied, only possible, or the family's."""
    kinds = ["has"] * draft.rng.randint(1, 3) + draft.rng.sample(("denies", "possible", "family"), 2)
    for kind in kinds:
        draft.add(kind)
    draft.scatter()
    note = draft.note(sections=False)
    return note.text, {"problems": " ; ".join(fact.words["problem"] for fact in note.facts if fact.kind == "has")}


def _cxr_record(key: str, row: Row) -> dict[str, Any]:
    return {
        "study_id": key,
        "subject_id": key,
        "findings": row[0],
        "impression": row[1]["impression"],
        "background": row[1]["background"],
    }


def _meqsum_record(key: str, row: Row) -> dict[str, Any]:
    return {"File": key, "CHQ": row[0].replace("\n", "\r\n"), "Summary": row[1]["summary"]}


def _mts_record(key: str, row: Row) -> dict[str, Any]:
    return {
        "ID": key,
        "section_header": row[1]["section"],
        "section_text": row[1]["text"],
        "dialogue": row[0].replace("\n", "\r\n"),
    }


def _aci_record(key: str, row: Row) -> dict[str, Any]:
    return {"dataset": "pocket", "encounter_id": key, "dialogue": row[0], "note": row[1]["text"]}


def _probsum_record(key: str, row: Row) -> dict[str, Any]:
    first, *rest = row[0].split("\n")
    return {
        "File ID": key,
        "Assessment": first,
        "Summary": row[1]["problems"],
        "Subjective Sections": "\n".join(rest),
        "Objective Sections": "",
    }


def write_dialogue(seed: int, index: int) -> tuple[str, str]:
    """A conversation and the note of it. Depends on `seed` and `index` alone."""
    text, row = _whole_note(Draft(generator(seed, index, "dialogue")))
    return text, row["text"]


SUMMARIES: dict[str, Table] = {
    "pocket_mimic_cxr_impressions": Table("pocket_mimic_cxr_impressions", _impression, _cxr_record),
    "pocket_meqsum": Table("pocket_meqsum", _consumer_question, _meqsum_record),
    "pocket_mts_dialog": Table("pocket_mts_dialog", _one_section, _mts_record),
    "pocket_aci_bench": Table("pocket_aci_bench", _whole_note, _aci_record),
    "pocket_probsum": Table("pocket_probsum", _problem_list, _probsum_record),
}
