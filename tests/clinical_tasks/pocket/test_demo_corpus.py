"""The demo corpus: what its writer writes, whole, and readable back without loss."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from clinical_tasks import check_tasks, load_cards, read_split

DEMO = Path(__file__).parents[3] / "configs" / "demo"
TASKS = {"demo_qa", "demo_entities", "demo_relations", "demo_summary"}


def files(root):
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_the_corpus_is_what_the_script_writes(tmp_path):
    subprocess.run([sys.executable, DEMO / "write_corpus.py", tmp_path], check=True)
    written = files(tmp_path)
    assert len(written) == 80 + 2 + 3 and written == files(DEMO / "data")
    assert b"\r\nDoctor" in written["demo_summary/dialogues_train.csv"]


def test_every_task_is_complete_and_round_trips():
    cards = {name: card for name, card in load_cards([DEMO / "cards"]).items() if name.startswith("demo_")}
    assert set(cards) == TASKS
    for check in check_tasks(cards, DEMO / "data", required=TASKS):
        assert check.problems == [] and check.notes == [] and check.ceiling == 1.0 and check.offset_mismatches == 0
        assert set(check.counts) == {"train", "validation", "test"} and min(check.counts.values()) >= 3


def test_tasks_over_the_same_notes_hold_out_the_same_notes():
    cards = load_cards([DEMO / "cards"])
    parts = [
        {e.document for e in read_split(cards[name], DEMO / "data", "validation")}
        for name in ("demo_entities", "demo_relations")
    ]
    assert parts[0] == parts[1]
