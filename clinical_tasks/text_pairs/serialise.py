"""Documents to text pairs. The answer grammar is stated once here; `alignment.py` and `parsing.py` read it back.

NER      one mention a line, `type: mention text`, in text order, repeats included; `none` where there is none
RE       one relation a line, `head | relation | tail`, in text order; `none` where there is none
choice   the option's letter, or the label's word
text     the reference itself
Mentions are written on one line, whitespace normalised; a discontinuous one is written as all the text it covers.
"""

from __future__ import annotations

import re
import string
from typing import Any

from clinical_tasks.schema import (
    Document,
    Example,
    Mention,
    OptionsSpec,
    Relation,
    TaskCard,
    as_text,
    choices,
    did_you_mean,
    gold_index,
    one_line,
    row_error,
)
from clinical_tasks.text_pairs.entities import EntityNames
from strict_yaml import counted

# Of what a document becomes, here and in `chunking.py`. Token rows are cached under it: raise it whenever a document
# may become other text pairs, or other pieces.
TEXT_PAIRS_VERSION = 1

NONE = "none"
SEPARATOR = " | "
_FIELD = re.compile(r"\{(\w+)\}")


def make_example(
    card: TaskCard, document: Document, *, offset: int = 0, piece: int = 0, cut_relations: int = 0
) -> Example:
    """The text pair of a document, or of a piece of one (then mentions are relative to the piece, which starts at
    `offset`).

    A row without an `answer` among its fields, a user's own, is asked without gold: its answer is empty.
    """
    makers = {"ner": _ner, "re": _re, "qa": _question, "nli": _labelled, "summarization": _free_text}
    fields, answer, options, gold = makers[card.type](card, document)
    input_text, text_range = _fill(card.input, fields)
    if card.type in ("ner", "re"):
        gold |= {"offset": offset, "text_range": text_range}
    if card.type == "re":
        gold["cut_relations"] = cut_relations
    return Example(
        task=card.name,
        example_id=document.doc_id + (f"#{piece}" if piece else ""),
        document=document.doc_id,
        piece=piece,
        input_text=input_text,
        answer_text=answer,
        options=options if card.answer == "likelihood" else (),
        gold=gold,
    )


def document_of(example: Example) -> Document:
    """The annotated document (or piece) that a NER or RE example was made from."""
    begin, end = example.gold["text_range"]
    spans = example.gold.get("mentions", example.gold.get("spans", []))
    mentions = []
    for number, span in enumerate(spans):
        mention = Mention(
            span.get("key", str(number)),
            span["type"],
            span["start"],
            span["end"],
            ids=tuple(span.get("ids", ())),
            parts=tuple(span.get("parts", ())),
        )
        mentions.append(mention)
    items = example.gold.get("relations", [])
    return Document(
        doc_id=example.document,
        text=example.input_text[begin:end],
        mentions=tuple(mentions),
        relations=tuple(Relation(item["type"], item["head"], item["tail"]) for item in items),
    )


# What a maker returns: the template's fields, the answer, the options, the gold.
Parts = tuple[dict[str, str], str, tuple[str, ...], dict[str, Any]]


def _ner(card: TaskCard, document: Document) -> Parts:
    spans = [mention for mention in document.mentions if card.keeps(mention.type)]
    # Two annotations of one span and type are one mention: every metric here works on sets of gold spans.
    unique = dict.fromkeys((span.type, span.start, span.end) for span in spans)
    lines = [f"{card.written(kind)}: {one_line(document.text[start:end])}" for kind, start, end in unique]
    gold = {"spans": [{"type": kind, "start": start, "end": end} for kind, start, end in unique]}
    return {"text": document.text}, "\n".join(lines) or NONE, (), gold


def _re(card: TaskCard, document: Document) -> Parts:
    texts = {mention.key: one_line(document.text[mention.start : mention.end]) for mention in document.mentions}
    entity_names = EntityNames(document, card.relations) if card.relations.level == "entity" else None
    starts = {mention.key: mention.start for mention in document.mentions}
    # (start of the head, start of the tail, text of the head, relation, text of the tail)
    written: list[tuple[int, int, str, Relation, str]] = []
    for relation in document.relations:
        head, tail = relation.head, relation.tail
        if not card.keeps(relation.type):
            continue
        if entity_names is None:
            written.append((starts[head], starts[tail], texts[head], relation, texts[tail]))
        else:
            places = entity_names.position(head), entity_names.position(tail)
            written.append((*places, entity_names.head(head), relation, entity_names.tail(tail)))
    written.sort(key=lambda row: (row[0], row[1], row[3].type))
    lines = [SEPARATOR.join((head, card.written(item.type), tail)) for _, _, head, item, tail in written]
    if card.relations.level == "entity":
        # Two ids that only share one mention text are one line, which means both.
        lines = list(dict.fromkeys(lines))
    entities = [f"{mention.type}: {texts[mention.key]}" for mention in document.mentions]
    gold = {
        "mentions": [_mention_json(mention) for mention in document.mentions],
        "relations": [{"type": item.type, "head": item.head, "tail": item.tail} for _, _, _, item, _ in written],
    }
    return {"text": document.text, "entities": "\n".join(entities) or NONE}, "\n".join(lines) or NONE, (), gold


def _mention_json(mention: Mention) -> dict[str, Any]:
    content: dict[str, Any] = {"key": mention.key, "type": mention.type, "start": mention.start, "end": mention.end}
    if mention.ids:
        content["ids"] = list(mention.ids)
    if mention.parts:
        content["parts"] = list(mention.parts)
    return content


def _question(card: TaskCard, document: Document) -> Parts:
    if card.options is not None:
        return _multiple_choice(card, card.options, document)
    return _labelled(card, document) if card.labels else _free_text(card, document)


def _multiple_choice(card: TaskCard, spec: OptionsSpec, document: Document) -> Parts:
    found = choices(spec, document)
    if not 2 <= len(found) <= 26:
        raise row_error(document, counted(len(found), "option"), "correct options.columns in the card")
    letters = tuple(string.ascii_uppercase[: len(found)])
    answer = letters[gold_index(spec, document, found)] if "answer" in document.fields else ""
    lines = []
    for letter, choice in zip(letters, found, strict=True):
        line, _ = _fill(spec.layout, {"letter": letter, "text": choice.text})
        lines.append(line)
    gold = {"label": answer, "options": list(letters), "choices": [choice.text for choice in found]}
    return {**_texts(document), "options": "\n".join(lines)}, answer, letters, gold


def _labelled(card: TaskCard, document: Document) -> Parts:
    options = tuple(dict.fromkeys(card.labels.values()))
    if "answer" not in document.fields:
        return _texts(document), "", options, {"label": "", "options": list(options)}
    label = as_text(document.fields["answer"])
    if label not in card.labels:
        near = did_you_mean(label, card.labels)
        raise row_error(
            document, f"the answer must be one of the card's labels{near}", "add it to labels or to ignore_labels"
        )
    return _texts(document), card.labels[label], options, {"label": card.labels[label], "options": list(options)}


def _free_text(card: TaskCard, document: Document) -> Parts:
    if "answer" not in document.fields:
        return _texts(document), "", (), {"references": []}
    value = document.fields["answer"]
    # A list of references is what extractive QA releases; the first is learnt, the best match is scored.
    values = value if isinstance(value, list) else [value]
    references = [text for text in map(as_text, values) if text]
    if card.type == "summarization" and references:
        references = ["\n".join(references)]
    if not references:
        raise row_error(document, "the answer is empty", "correct columns.answer in the card, or remove the row")
    return _texts(document), references[0], (), {"references": references}


def _texts(document: Document) -> dict[str, str]:
    return {name: as_text(value) for name, value in document.fields.items() if name not in ("options", "answer")}


def _fill(template: str, fields: dict[str, str]) -> tuple[str, list[int]]:
    """Fill `{name}` fields, and say where `{text}` came to lie. Braces in the values stay as they are."""
    pieces, length, position, text_range = [], 0, 0, [0, 0]
    for match in _FIELD.finditer(template):
        before, value = template[position : match.start()], fields[match[1]]
        length += len(before)
        if match[1] == "text":
            text_range = [length, length + len(value)]
        length += len(value)
        pieces += [before, value]
        position = match.end()
    return "".join(pieces) + template[position:], text_range
