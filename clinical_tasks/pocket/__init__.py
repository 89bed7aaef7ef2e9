"""The pocket corpus: invented clinical notes with gold structure, as 21 source and 10 target tasks. See docs/data.md."""

from clinical_tasks.pocket.corpus import (
    CARDS,
    SIZES,
    SOURCES,
    TARGETS,
    TASKS,
    draw_examples,
    instruction_pairs,
    pocket_card,
    write_pocket_corpus,
)
from clinical_tasks.pocket.notes import Fact, Note, write_note
from clinical_tasks.pocket.summaries import write_dialogue

__all__ = [
    "CARDS",
    "SIZES",
    "SOURCES",
    "TARGETS",
    "TASKS",
    "Fact",
    "Note",
    "draw_examples",
    "instruction_pairs",
    "pocket_card",
    "write_dialogue",
    "write_note",
    "write_pocket_corpus",
]
