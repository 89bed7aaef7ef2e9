from .notes import brat_lines as brat_lines, note_result as note_result, read_notes as read_notes

__all__ = [
    "brat_lines",
    "note_result",
    "read_notes",
]
