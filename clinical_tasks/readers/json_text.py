"""JSON with nothing lost on the way: a key given twice, half a character and the like are reasons, never silence."""

from __future__ import annotations

import json
from typing import Any


class NotJson(Exception):
    """Why a text is not JSON that can be used; `line` counts from 1 within the text, where known. Holds none of the
    text.
    """

    def __init__(self, reason: str, line: int | None = None) -> None:
        super().__init__(reason)
        self.reason, self.line = reason, line


def parse_json(text: str) -> Any:
    """The value. Raises `NotJson`; raise from it with `from None`, since what lies behind it keeps the whole text."""
    try:
        value = json.loads(text, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        raise NotJson(f"not JSON at column {error.colno}", error.lineno) from None
    except RecursionError:
        raise NotJson("lists or objects are nested too deeply") from None
    except ValueError:
        raise NotJson("a number is too long") from None
    # Only an escape can bring half a surrogate pair; it would break whatever encodes the text later.
    if "\\ud" in text or "\\uD" in text:
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise NotJson("an escape \\uD800 to \\uDFFF is half a character") from None
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise NotJson("duplicate key in an object")
    return found
