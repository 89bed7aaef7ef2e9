"""Answers back to predictions: the inverse of `serialise.py`, for text that a model wrote and that may be anything."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

from clinical_tasks.schema import Document, Example, Mention, TaskCard, one_line
from clinical_tasks.text_pairs.align import align_mentions
from clinical_tasks.text_pairs.entities import EntityNames
from clinical_tasks.text_pairs.serialise import NONE, SEPARATOR, document_of


def parse_answer(card: TaskCard, example: Example, answer_text: str) -> dict[str, Any]:
    """A JSON-able prediction.

    NER: `spans` (type, start, end in the *document*, text) and `unaligned` (lines that name no span).
    RE: `relations` (type, head, tail: mention keys or concept ids) and `unaligned`.
    `unaligned_types` holds the label that each unaligned line names, "" where it names none.
    Choice: `label`, one of the options, or None. Free text: `text`.
    """
    if card.type == "ner":
        return _parse_mentions(card, example, answer_text)
    if card.type == "re":
        return _parse_relations(card, example, answer_text)
    if "options" in example.gold:
        return {"label": _parse_choice(example.gold["options"], example.gold.get("choices", []), answer_text)}
    return {"text": answer_text.strip()}


def _lines(answer_text: str) -> list[str]:
    lines = (one_line(line) for line in answer_text.split("\n"))
    return [line for line in lines if line and line.casefold() != NONE]


def _parse_mentions(card: TaskCard, example: Example, answer_text: str) -> dict[str, Any]:
    document, offset = document_of(example), example.gold["offset"]
    mentions, unaligned, types = [], [], []
    for line in _lines(answer_text):
        mention = _typed_mention(card, line)
        if mention is None:
            unaligned.append(line)
            types.append("")
        else:
            mentions.append(mention)
    spans = []
    for (kind, text), span in zip(mentions, align_mentions(document.text, mentions), strict=True):
        if span is None:
            unaligned.append(f"{card.written(kind)}: {text}")
            types.append(kind)
        else:
            spans.append({"type": kind, "start": offset + span[0], "end": offset + span[1], "text": text})
    return {"spans": spans, "unaligned": unaligned, "unaligned_types": types}


def _typed_mention(card: TaskCard, line: str) -> tuple[str, str] | None:
    """Split `type: text` at the colon after a known word: a word, and a mention, may hold colons themselves."""
    if not card.labels:
        kind, _, text = line.partition(": ")
        return (kind.strip(), text) if kind.strip() and text else None
    for label, word in sorted(card.labels.items(), key=lambda item: -len(item[1])):
        rest = line[len(word) :].lstrip()
        if line[: len(word)].casefold() == word.casefold() and rest.startswith(":"):
            text = rest[1:].strip()
            return (label, text) if text else None
    return None


def _parse_relations(card: TaskCard, example: Example, answer_text: str) -> dict[str, Any]:
    resolver = _EntityResolver(card, example) if card.relations.level == "entity" else _MentionResolver(card, example)
    relations: list[dict[str, str]] = []
    unaligned, types = [], []
    for line in _lines(answer_text):
        triples = list(_triples(card, line))
        found = _first_pairs(resolver, triples)
        relations += found
        if not found:
            unaligned.append(line)
            types.append(triples[0][1] if triples else "")
    return {"relations": relations, "unaligned": unaligned, "unaligned_types": types}


def _first_pairs(
    resolver: _EntityResolver | _MentionResolver, triples: Sequence[tuple[str, str, str]]
) -> list[dict[str, str]]:
    """What the first reading of a line stands for that stands for anything."""
    for head, label, tail in triples:
        pairs = resolver.pairs(head, label, tail)
        if pairs:
            return pairs
    return []


def _triples(card: TaskCard, line: str) -> Iterator[tuple[str, str, str]]:
    """Every reading of a line as (head, official label, tail): a mention may itself hold the separator."""
    parts = line.split(SEPARATOR)
    labels = {word.casefold(): label for label, word in card.labels.items()}
    for middle in range(1, len(parts) - 1):
        for stop in range(middle + 1, len(parts)):
            word = SEPARATOR.join(parts[middle:stop]).strip()
            label = labels.get(word.casefold()) if card.labels else word
            if label:
                yield SEPARATOR.join(parts[:middle]).strip(), label, SEPARATOR.join(parts[stop:]).strip()


class _EntityResolver:
    """Texts to concept identifiers, through the document's own entity dictionary."""

    def __init__(self, card: TaskCard, example: Example) -> None:
        self._names = EntityNames(document_of(example), card.relations)

    def pairs(self, head: str, label: str, tail: str) -> list[dict[str, str]]:
        """Every pair of concepts that the two texts may stand for; none if either text is no entity of the document."""
        pairs = product(self._names.head_ids(head), self._names.tail_ids(tail))
        return [{"type": label, "head": one, "tail": other} for one, other in pairs]


_BORDER = re.compile(r"[.!?]?[ \t\r]*\n|[.!?]\s")


class _MentionResolver:
    """Texts to mentions: of all pairs of mentions with these texts, the closest one that this answer has not used.

    Closest is with the fewest sentence ends and line breaks between the two, then with the fewest characters: a drug
    that begins the next sentence is nearer in characters than the one that the sentence is about.
    """

    def __init__(self, card: TaskCard, example: Example) -> None:
        document = document_of(example)
        self._text = document.text
        self._heads = _by_text(document, card.relations.head)
        self._tails = _by_text(document, card.relations.tail)
        self._used: set[tuple[str, str, str]] = set()

    def pairs(self, head: str, label: str, tail: str) -> list[dict[str, str]]:
        """The one pair that a line stands for, or none. A line repeated for repeated mentions gets the next closest
        pair.
        """
        candidates = []
        for one, other in product(self._heads.get(head.casefold(), ()), self._tails.get(tail.casefold(), ())):
            if one.key != other.key and (label, one.key, other.key) not in self._used:
                candidates.append((*self._distance(one, other), one.start, other.start, one.key, other.key))
        if not candidates:
            return []
        *_, head_key, tail_key = min(candidates)
        self._used.add((label, head_key, tail_key))
        return [{"type": label, "head": head_key, "tail": tail_key}]

    def _distance(self, one: Mention, other: Mention) -> tuple[int, int]:
        """Borders and characters between two mentions; 0 where they touch or overlap."""
        between = self._text[min(one.end, other.end) : max(one.start, other.start)]
        return len(_BORDER.findall(between)), len(between)


def _by_text(document: Document, types: tuple[str, ...]) -> dict[str, list[Mention]]:
    found: dict[str, list[Mention]] = {}
    for mention in document.mentions:
        if not types or mention.type in types:
            found.setdefault(one_line(document.text[mention.start : mention.end]).casefold(), []).append(mention)
    return found


def _parse_choice(options: Sequence[str], choices: Sequence[str], answer_text: str) -> str | None:
    """The option that an answer names: alone, at its beginning, by the option's own text, or as the only option in
    it.
    """
    answer = one_line(answer_text).strip(" .\"'*")
    for option in options:
        if answer.casefold() == option.casefold():
            return option
    # A longer label may begin with a shorter one.
    for option in sorted(options, key=len, reverse=True):
        if re.match(rf"\W*{_word(option)}", answer, _case(option)):
            return option
    for option, choice in zip(options, choices, strict=False):
        if answer.casefold() == choice.casefold():
            return option
    named = [option for option in options if re.search(rf"(?<!\w){_word(option)}", answer, _case(option))]
    return named[0] if len(named) == 1 else None


def _word(option: str) -> str:
    """The option as a whole word; an 'A' or 'I' before a lower-case word is English, not an option."""
    if option in ("A", "I"):
        return re.escape(option) + r"(?!\w|\s+[a-z])"
    return re.escape(option) + r"(?!\w)"


def _case(option: str) -> re.RegexFlag:
    # 'A' in capitals is an option, 'a' is an article.
    return re.NOFLAG if len(option) == 1 else re.IGNORECASE
