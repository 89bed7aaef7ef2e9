"""The pocket corpus: invented clinical notes with gold structure, as 21 source and 10 target tasks. See
docs/reference/data.md.
"""

from clinical_tasks.pocket.corpus import (
    CARDS,
    SIZES,
    SOURCES,
    TARGETS,
    TASKS,
    draw_examples,
    pocket_card,
    write_pocket_corpus,
)
from clinical_tasks.pocket.lessons import BUILDS_ON, DRILLS, LESSONS, Lesson, instruction_pairs, lessons
from clinical_tasks.pocket.notes import Fact, Note, write_note
from clinical_tasks.pocket.summaries import write_dialogue

__all__ = [
    "BUILDS_ON",
    "CARDS",
    "DRILLS",
    "LESSONS",
    "SIZES",
    "SOURCES",
    "TARGETS",
    "TASKS",
    "Fact",
    "Lesson",
    "Note",
    "draw_examples",
    "instruction_pairs",
    "lessons",
    "pocket_card",
    "write_dialogue",
    "write_note",
    "write_pocket_corpus",
]
