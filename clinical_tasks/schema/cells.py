"""One cell of a table or record: finding it by name or path, and turning it into text."""

from __future__ import annotations

import math
from typing import Any

# The key under which a record of a mapping finds its own key, and the one under which it finds the object around it.
KEY_COLUMN = "$key"
PARENT_COLUMN = "$parent"
ABSENT = object()


def lookup(values: Any, source: str) -> Any:
    """A key as written, else the dotted path; through a list, the entries' values. `ABSENT` where it leads nowhere."""
    if isinstance(values, dict) and source in values:
        return values[source]
    first, dot, rest = source.partition(".")
    if isinstance(values, list):
        found = [lookup(value, source) for value in values]
        return ABSENT if ABSENT in found else found
    if dot and isinstance(values, dict) and first in values:
        return lookup(values[first], rest)
    return ABSENT


def as_text(value: Any) -> str:
    """A cell as text: lists joined by newlines, whole numbers without a point, nothing for null."""
    if value is None or value is ABSENT or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, list):
        return "\n".join(text for text in map(as_text, value) if text)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).replace("\r\n", "\n").replace("\r", "\n").strip()


def is_absent(value: Any) -> bool:
    """Whether a row has no such column, or nothing in it."""
    return value is ABSENT or as_text(value) == ""


def holds_object(value: Any, depth: int = 0) -> bool:
    """Whether a cell is, or lists, an object: that has fields and no text of its own. So have lists within lists
    without end.
    """
    if isinstance(value, list):
        return depth > 20 or any(holds_object(item, depth + 1) for item in value)
    return isinstance(value, dict)
