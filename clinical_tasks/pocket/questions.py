"""Question answering and inference tasks: a note, what is asked about it, and the answer, as the release's own
record.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from clinical_tasks.pocket.inquiries import INQUIRIES, Row
from clinical_tasks.pocket.notes import Draft
from clinical_tasks.pocket.records import RECORDS


@dataclass(frozen=True)
class Table:
    """A task over rows. `compose` drafts a note and asks; `record` lays a row out as the release does, given the
    row's id.
    """

    folder: str
    compose: Callable[[Draft], Row]
    record: Callable[[str, Row], dict[str, Any]]


QUESTIONS: dict[str, Table] = {name: Table(name, inquiry.row, RECORDS[name]) for name, inquiry in INQUIRIES.items()}
