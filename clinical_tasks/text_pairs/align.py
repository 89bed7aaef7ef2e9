"""Mention texts back to spans: left to right, each to the next occurrence that is not used yet."""

from __future__ import annotations

import re
from collections.abc import Sequence


def align_mentions(text: str, mentions: Sequence[tuple[str, str]]) -> list[tuple[int, int] | None]:
    """For each (type, mention text), in the answer's order, its (start, end) in `text`, or None where nothing is left
    to align to.

    An answer is in text order, so a mention is sought after the one before it; then overlapping it (nested mentions);
    only then earlier in the text (an answer out of order). No two mentions of one type get the same span.
    """
    occurrences = _Occurrences(text)
    used: dict[str, set[tuple[int, int]]] = {}
    spans: list[tuple[int, int] | None] = []
    last_start = last_end = 0
    for kind, mention in mentions:
        span = _choose(occurrences, mention, used.setdefault(kind, set()), last_start, last_end)
        spans.append(span)
        if span is not None:
            used[kind].add(span)
            last_start, last_end = max(last_start, span[0]), max(last_end, span[1])
    return spans


def _choose(
    occurrences: _Occurrences, mention: str, used: set[tuple[int, int]], start: int, end: int
) -> tuple[int, int] | None:
    for tier in range(_TIERS):
        free = [span for span in occurrences.tier(mention, tier) if span not in used]
        if free:
            after = next((span for span in free if span[0] >= end), None)
            return after or next((span for span in free if span[0] >= start), free[0])
    return None


_TIERS = 4


class _Occurrences:
    """Where a mention occurs, the most faithful matches first; found once for each distinct mention, and only as far as
    asked for.

    A mention is written on one line: any run of whitespace in the note matches one space of it. So both are compared
        with their
    whitespace flattened, by plain search; regular expressions, a hundred times slower to compile, serve letters beyond
    ASCII of another case.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self._flat, self._places = _flatten(text)
        self._lower = self._flat.lower() if text.isascii() else None
        self._found: dict[tuple[str, int], list[tuple[int, int]]] = {}

    def tier(self, mention: str, tier: int) -> list[tuple[int, int]]:
        """0: whole words in this case, 1: whole words in any case, 2 and 3: parts of words likewise. Overlapping
        occurrences too.
        """
        if (mention, tier) not in self._found:
            self._found[mention, tier] = self._spans(mention.split(), whole=tier < 2, any_case=tier % 2 == 1)
        return self._found[mention, tier]

    def _spans(self, words: list[str], whole: bool, any_case: bool) -> list[tuple[int, int]]:
        body = " ".join(words)
        if not body:
            return []
        if any_case and (self._lower is None or not body.isascii()):
            pattern = r"\s+".join(re.escape(word) for word in words)
            if whole:
                pattern = rf"(?<!\w){pattern}(?!\w)"
            pattern = f"(?=({pattern}))"
            return [match.span(1) for match in re.finditer(pattern, self._text, re.IGNORECASE)]
        flat = self._flat
        if any_case and self._lower is not None:
            flat, body = self._lower, body.lower()
        spans = []
        begin = flat.find(body)
        while begin >= 0:
            end = begin + len(body)
            if not whole or not (_is_word(flat[begin - 1 : begin]) or _is_word(flat[end : end + 1])):
                spans.append((self._places[begin], self._places[end - 1] + 1))
            begin = flat.find(body, begin + 1)
        return spans


def _flatten(text: str) -> tuple[str, Sequence[int]]:
    """The text with each run of whitespace as one space, and for each of its characters the place in the text."""
    pieces, places = [], []
    position = 0
    for match in re.finditer(r"\s+", text):
        if match[0] == " ":
            continue
        pieces += [text[position : match.start()], " "]
        places += [*range(position, match.start()), match.start()]
        position = match.end()
    if not pieces:
        return text, range(len(text))
    return "".join(pieces) + text[position:], [*places, *range(position, len(text))]


def _is_word(character: str) -> bool:
    r"""As `\w` has it."""
    return character.isalnum() or character == "_"
