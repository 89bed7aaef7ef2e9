"""Mention texts back to spans: left to right, each to the next occurrence that is not used yet."""

from __future__ import annotations

import re
from collections.abc import Sequence


def align_mentions(text: str, mentions: Sequence[tuple[str, str]]) -> list[tuple[int, int] | None]:
    """For each (type, mention text), in the answer's order, its (start, end) in `text`, or None where nothing is left to align to.

    An answer is in text order, so a mention is sought after the one before it; then overlapping it (nested mentions); only then
    earlier in the text (an answer out of order). No two mentions of one type get the same span.
    """
    occurrences = _Occurrences(text)
    used: dict[str, set[tuple[int, int]]] = {}
    spans: list[tuple[int, int] | None] = []
    last_start = last_end = 0
    for kind, mention in mentions:
        span = _choose(occurrences.tiers(mention), used.setdefault(kind, set()), last_start, last_end)
        spans.append(span)
        if span is not None:
            used[kind].add(span)
            last_start, last_end = max(last_start, span[0]), max(last_end, span[1])
    return spans


def _choose(tiers: list[list[tuple[int, int]]], used: set[tuple[int, int]], start: int, end: int) -> tuple[int, int] | None:
    for tier in tiers:
        free = [span for span in tier if span not in used]
        if free:
            after = next((span for span in free if span[0] >= end), None)
            return after or next((span for span in free if span[0] >= start), free[0])
    return None


class _Occurrences:
    """Where a mention occurs, the most faithful matches first; found once for each distinct mention."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._found: dict[str, list[list[tuple[int, int]]]] = {}

    def tiers(self, mention: str) -> list[list[tuple[int, int]]]:
        """Whole words in this case, whole words in any case, then parts of words likewise."""
        if mention not in self._found:
            # A mention is written on one line: any run of whitespace in the note matches one space of it.
            body = r"\s+".join(re.escape(word) for word in mention.split())
            whole = rf"(?<!\w){body}(?!\w)"
            self._found[mention] = [
                self._spans(pattern, flags) for pattern in (whole, body) for flags in (re.NOFLAG, re.IGNORECASE)
            ] if body else []
        return self._found[mention]

    def _spans(self, pattern: str, flags: re.RegexFlag) -> list[tuple[int, int]]:
        # The lookahead finds overlapping occurrences too.
        return [match.span(1) for match in re.finditer(f"(?=({pattern}))", self._text, flags)]
