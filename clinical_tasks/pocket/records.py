"""Rows of questions and inferences as the releases lay them out, each given the row's id."""

from __future__ import annotations

import string
from collections.abc import Callable
from typing import Any

from clinical_tasks.pocket.inquiries import Row


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
    category = "pos"
    if row[1]["label"] != "true":
        category = _PERTURBATIONS[int(key) % len(_PERTURBATIONS)]
    return {"index": key, "pmid": key, "supp_set": row[0], "conclusion": row[1]["hypothesis"], "label_cat": category}


def _scitail_record(key: str, row: Row) -> dict[str, Any]:
    # The release has no header line and no id; a line break would end a row, so the premise stands on one line.
    return {"premise": row[0].replace("\n", " "), "hypothesis": row[1]["hypothesis"], "label": row[1]["label"]}


RECORDS: dict[str, Callable[[str, Row], dict[str, Any]]] = {
    "pocket_medqa": _medqa_record,
    "pocket_medmcqa": _medmcqa_record,
    "pocket_pubmedqa": _pubmedqa_record,
    "pocket_emrqa": _emrqa_record,
    "pocket_mednli": _pair_record("pairID", note="sentence1", hypothesis="sentence2", label="gold_label"),
    "pocket_bionli": _bionli_record,
    "pocket_scitail": _scitail_record,
    "pocket_medbullets": _medbullets_record,
    "pocket_headqa": _headqa_record,
    "pocket_scinli": _pair_record("id", note="sentence1", hypothesis="sentence2", label="label"),
    "pocket_radnli": _pair_record("pair_id", note="sentence1", hypothesis="sentence2", label="gold_label"),
}
