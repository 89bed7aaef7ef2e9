"""Writes the invented demo corpus: python configs/demo/write_corpus.py configs/demo/data

Four tasks in real release formats. Every patient, drug effect and number is made up; the same seed writes the same
bytes.
"""

from __future__ import annotations

import csv
import json
import random
import sys
from pathlib import Path

DRUGS = {
    "lisinopril": "hypertension",
    "metformin": "type 2 diabetes",
    "albuterol": "asthma",
    "warfarin": "atrial fibrillation",
    "sertraline": "depression",
    "omeprazole": "reflux",
    "gabapentin": "neuropathy",
    "amoxicillin": "sinusitis",
}
EFFECTS = ("nausea", "dizziness", "dry cough", "rash", "headache", "fatigue")
DOSES = ("5 mg", "10 mg", "20 mg", "50 mg", "100 mg", "500 mg")
SITES = ("the clinic", "the emergency department", "the ward", "a telephone visit")


class Note:
    """A note under construction: text pieces, some of which are mentions, and relations between them."""

    def __init__(self) -> None:
        self.text = ""
        self.spans: list[tuple[str, list[tuple[int, int]]]] = []
        self.relations: list[tuple[str, int, int]] = []

    def say(self, words: str) -> None:
        """Plain text."""
        self.text += words

    def mention(self, kind: str, words: str) -> int:
        """A mention; returns its number."""
        self.spans.append((kind, [(len(self.text), len(self.text) + len(words))]))
        self.text += words
        return len(self.spans)

    def standoff(self) -> str:
        """The annotations in brat's grammar."""
        lines = []
        for number, (kind, fragments) in enumerate(self.spans, start=1):
            offsets = ";".join(f"{start} {end}" for start, end in fragments)
            quoted = " ".join(self.text[start:end] for start, end in fragments)
            lines.append(f"T{number}\t{kind} {offsets}\t{quoted}")
        # Some tools end relation lines in a tab; so do ours.
        lines += [
            f"R{number}\t{kind} Arg1:T{head} Arg2:T{tail}\t"
            for number, (kind, head, tail) in enumerate(self.relations, start=1)
        ]
        return "\n".join(lines) + "\n"


def write_note(rng: random.Random) -> Note:
    """One visit: what the patient takes and why, what a drug did, what was done about it."""
    note = Note()
    drugs = rng.sample(sorted(DRUGS), 2)
    note.say(
        f"HISTORY:\nA {rng.randint(25, 88)}-year-old {rng.choice(('man', 'woman'))} seen in {rng.choice(SITES)}.\n"
    )
    for drug in drugs:
        note.say(rng.choice(("The patient takes ", "Home medication includes ")))
        head = note.mention("Drug", drug)
        note.say(" ")
        dose = note.mention("Dose", rng.choice(DOSES))
        note.say(rng.choice((" for ", " because of ")))
        problem = note.mention("Problem", DRUGS[drug])
        note.say(".\n")
        note.relations += [("Treats", head, problem), ("Dose-Drug", dose, head)]
    note.say("\nCOURSE:\n")
    if rng.random() < 0.7:
        drug = rng.choice(drugs)
        head = note.mention("Drug", drug)
        note.say(rng.choice((" was followed by ", " led to ")))
        effect = note.mention("Problem", rng.choice(EFFECTS))
        note.relations.append(("Causes", head, effect))
        note.say(" and was stopped.\n")
    else:
        note.say("No side effects were reported.\n")
    if rng.random() < 0.3:
        # One head word, two modifiers: the second mention is in two parts.
        start = len(note.text)
        note.mention("Problem", "left arm")
        note.say(" and leg pain is new.\n")
        note.spans[-1] = ("Problem", [(start, start + 8), (start + 17, start + 21)])
    return note


def write_notes(folder: Path, rng: random.Random) -> None:
    """Thirty notes to train on and ten to test, as .txt with .ann beside it."""
    for split, count in (("train", 30), ("test", 10)):
        (folder / split).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            note = write_note(rng)
            (folder / split / f"note_{number:02d}.txt").write_text(note.text, encoding="utf-8", newline="")
            (folder / split / f"note_{number:02d}.ann").write_text(note.standoff(), encoding="utf-8", newline="")


def write_questions(folder: Path, rng: random.Random) -> None:
    """Sixty questions in the grammar of PubMedQA: records by id, and the ids of the test set with their labels."""
    folder.mkdir(parents=True, exist_ok=True)
    records = {}
    for number in range(60):
        drug, effect = rng.choice(sorted(DRUGS)), rng.choice(EFFECTS)
        label = ("yes", "no", "maybe")[number % 3]
        treated, control = {"yes": (rng.randint(30, 45), rng.randint(3, 9)), "no": (12, 12), "maybe": (14, 12)}[label]
        finding = {
            "yes": "The difference was significant.",
            "no": "There was no difference.",
            "maybe": "The study was too small to tell.",
        }[label]
        records[str(90000000 + number)] = {
            "QUESTION": f"Does {drug} cause {effect} in patients with {DRUGS[drug]}?",
            "CONTEXTS": [
                f"We followed {rng.randint(40, 400)} patients with {DRUGS[drug]} who took {drug} or placebo.",
                (
                    f"{effect.capitalize()} occurred in {treated}% of treated and {control}% of untreated patients. "
                    f"{finding}"
                ),
            ],
            "LONG_ANSWER": f"In these patients {effect} under {drug} is answered with {label}.",
            "final_decision": label,
        }
    test = {key: record["final_decision"] for key, record in list(records.items())[42:]}
    (folder / "questions.json").write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")
    (folder / "test_ground_truth.json").write_text(json.dumps(test, indent=1) + "\n", encoding="utf-8")


def write_dialogues(folder: Path, rng: random.Random) -> None:
    """Forty dialogues in the grammar of MTS-Dialog: CRLF at the end of rows and inside fields."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, count in (("train", 26), ("validation", 6), ("test", 8)):
        with (folder / f"dialogues_{split}.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\r\n")
            writer.writerow(("ID", "section_header", "section_text", "dialogue"))
            for number in range(count):
                writer.writerow((number, *_dialogue(rng)))


def _dialogue(rng: random.Random) -> tuple[str, str, str]:
    drug, effect, days, dose = rng.choice(sorted(DRUGS)), rng.choice(EFFECTS), rng.randint(2, 20), rng.choice(DOSES)
    if rng.random() < 0.5:
        turns = (
            "Doctor: What brings you in?",
            f"Patient: I have had {effect} for {days} days.",
            "Doctor: Any fever?",
            "Patient: No, none.",
        )
        return "CC", f"{effect.capitalize()} for {days} days, no fever.", "\r\n".join(turns)
    turns = (
        "Doctor: Do you take anything?",
        f"Patient: Yes, {drug}, {dose}.",
        "Doctor: What is it for?",
        f'Patient: They said "{DRUGS[drug]}".',
    )
    return "MEDICATIONS", f"{drug.capitalize()} {dose} for {DRUGS[drug]}.", "\r\n".join(turns)


def main(root: Path) -> None:
    """Write all four tasks below `root`, each from a seed of its own."""
    write_notes(root / "demo_notes", random.Random(1))
    write_questions(root / "demo_qa", random.Random(2))
    write_dialogues(root / "demo_summary", random.Random(3))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
