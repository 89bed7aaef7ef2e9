"""Where the answers for a user's own notes go: a .jsonl file, or a folder of brat .ann files. No torch."""

import os
from pathlib import Path

from clinical_tasks import TaskCard


def names_folder(output: str, path: Path) -> bool:
    """Whether an output is a folder: as typed it ends in a slash, or one is there."""
    return output.endswith("/") or path.is_dir()


def answer_output_problems(output: Path, into_folder: bool, card: TaskCard | None, overwrite: bool) -> list[str]:
    """What keeps the answers from being written.

    Args:
        card: of the task; None where it is not known.
    """
    parent = output.parent
    if not parent.is_dir():
        return [f"--output: {parent} is not a folder; create it first"]
    if not os.access(parent, os.W_OK | os.X_OK):
        return [f"--output: {parent} cannot be written to by this user"]
    if into_folder and card is not None and card.type != "ner":
        return [f"--output: a folder of .ann files is for NER; {card.name} is {card.type}: name a .jsonl file"]
    if into_folder and output.is_dir():
        refused = any(output.iterdir()) and not overwrite
    else:  # a folder cannot be written over a file
        refused = output.exists() and (into_folder or not overwrite)
    if refused:
        return [f"--output: {output} already exists; name another, or give --overwrite=true to write over it"]
    return []
