"""Document-level entities: which text stands for which concept identifier, both ways.

A text-to-text model answers in words, the corpus in identifiers. The document's own gold mentions are the dictionary
between them.
"""

from __future__ import annotations

from collections.abc import Iterator

from clinical_tasks.schema import Document, Mention, RelationSpec, mention_order, one_line


class EntityNames:
    """The names of a document's concepts, apart for relation heads and tails, so that a type settles what a text
    alone cannot.
    """

    def __init__(self, document: Document, spec: RelationSpec) -> None:
        self._positions: dict[str, int] = {}
        for mention in document.mentions:
            for identifier in mention.ids:
                self._positions.setdefault(identifier, mention.start)
        self._heads = _Side(document, spec.head)
        self._tails = _Side(document, spec.tail)

    def position(self, identifier: str) -> int:
        """Where the concept is first mentioned; concepts without a mention come last."""
        return self._positions.get(identifier, 1 << 60)

    def head(self, identifier: str) -> str:
        """A mention text for the concept as a relation's head."""
        return self._heads.text(identifier)

    def tail(self, identifier: str) -> str:
        """A mention text for the concept as a relation's tail."""
        return self._tails.text(identifier)

    def head_ids(self, text: str) -> tuple[str, ...]:
        """All concepts that a text may stand for as a relation's head."""
        return self._heads.ids(text)

    def tail_ids(self, text: str) -> tuple[str, ...]:
        """All concepts that a text may stand for as a relation's tail."""
        return self._tails.ids(text)


class _Side:
    def __init__(self, document: Document, types: tuple[str, ...]) -> None:
        self._ids: dict[str, dict[str, None]] = {}
        self._texts: dict[str, list[str]] = {}
        for mention in sorted(document.mentions, key=mention_order):
            if types and mention.type not in types:
                continue
            for text, identifiers in _names(document, mention):
                self._ids.setdefault(text.casefold(), {}).update(dict.fromkeys(identifiers))
                for identifier in identifiers:
                    self._texts.setdefault(identifier, []).append(text)

    def text(self, identifier: str) -> str:
        """The first text that names this concept only, else its first text, else the identifier (a concept never
        mentioned).
        """
        texts = self._texts.get(identifier, [identifier])
        return next((text for text in texts if len(self.ids(text)) == 1), texts[0])

    def ids(self, text: str) -> tuple[str, ...]:
        return tuple(self._ids.get(one_line(text).casefold(), ()))


def _names(document: Document, mention: Mention) -> Iterator[tuple[str, tuple[str, ...]]]:
    """A composite mention names each concept by its own part where the corpus gives the parts, and all of them as a
    whole.
    """
    yield from ((one_line(part), (identifier,)) for part, identifier in zip(mention.parts, mention.ids, strict=False))
    if mention.ids:
        yield one_line(document.text[mention.start : mention.end]), mention.ids
