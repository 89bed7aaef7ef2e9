"""A user's own notes: records without gold to examples, and the answers of a note's pieces to one result.

.jsonl    one object a line: `id`, and for NER `text`; for relations `text` and `entities` (type, start, end; `key`,
`ids` where there are any);
          for other tasks the fields of the card's input, `options` (a list, or a mapping) where it shows any. An input
          of one field takes it as `text` too.
.txt      a note, its name the id; a folder of them. For tasks that a text alone suffices for.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, TypeGuard

from clinical_tasks.readers import read_text
from clinical_tasks.schema import Document, Example, Mention, ReadError, TaskCard, as_text, mention_order, read_error
from clinical_tasks.text_pairs import NONE, document_of, make_example, parse_answer


def read_notes(path: Path, card: TaskCard) -> tuple[list[Example], list[str]]:
    """Every note of a file or folder as a whole example, and what is wrong with the others: file, line, reason, fix."""
    examples: list[Example] = []
    problems: list[str] = []
    first: dict[str, str] = {}
    try:
        for where, make in _records(path, card):
            try:
                example = make()
            except ReadError as error:
                problems.append(str(error))
                continue
            examples.append(example)
            earlier = first.setdefault(example.document, where)
            if earlier != where:
                problems.append(f"{where}: duplicate id (first in {earlier}). Fix: give every note its own id")
    except ReadError as error:
        problems.append(str(error))
    if not examples and not problems:
        problems.append(f"{path}: has no notes. Fix: name a .txt, a folder of .txt, or a .jsonl with one object a line")
    return examples, problems


def _records(path: Path, card: TaskCard) -> Iterator[tuple[str, Callable[[], Example]]]:
    """Where each record stands, and what reads it."""
    if path.is_dir():
        for file in sorted(p for p in path.iterdir() if p.suffix == ".txt"):
            yield str(file), partial(_text_file, file, card)
    elif path.suffix == ".txt":
        yield str(path), partial(_text_file, path, card)
    elif path.suffix == ".jsonl":
        for number, line in enumerate(_content(path).split("\n"), start=1):
            if line.strip():
                yield f"{path}:{number}", partial(_line, path, number, line, card)
    else:
        reason = "must be a .txt, a .jsonl or a folder" if path.exists() else "does not exist"
        raise read_error(path, reason, fix="name one of these")


def _content(path: Path, *, skip_bom: bool = True) -> str:
    if not path.is_file():
        raise read_error(path, "does not exist", fix="name a .txt, a folder of .txt, or a .jsonl")
    return read_text(path, skip_bom=skip_bom)


def _text_file(path: Path, card: TaskCard) -> Example:
    return note_example(card, {"id": path.stem, "text": _content(path, skip_bom=False)}, str(path))


def _line(path: Path, number: int, line: str, card: TaskCard) -> Example:
    try:
        record = json.loads(line)
    except (json.JSONDecodeError, RecursionError):
        raise read_error(path, "is not JSON", line=number, fix="write one object a line") from None
    if not isinstance(record, dict):
        raise read_error(path, "is not a JSON object", line=number, fix='write {"id": ..., "text": ...}')
    identifier = record.get("id")
    if isinstance(identifier, bool) or not isinstance(identifier, str | int) or not str(identifier).strip():
        raise read_error(path, "has no 'id'", line=number, fix="give it a word or a whole number")
    return note_example(card, record | {"id": str(identifier)}, f"{path}:{number}")


def note_example(card: TaskCard, record: Mapping[str, Any], where: str) -> Example:
    """The example of one record, without gold. Raises `ReadError`."""
    if card.type in ("ner", "re"):
        text = _field(record, "text", where, card)
        mentions: tuple[Mention, ...] = ()
        if card.type == "re":
            mentions = _mentions(record, text, where, card)
        return make_example(card, Document(record["id"], text, mentions, source=where))
    names = [name for name in dict.fromkeys(re.findall(r"\{(\w+)\}", card.input)) if name != "options"]
    fields: dict[str, Any] = {}
    for name in names:
        key = name
        if len(names) == 1 and name not in record and "text" in record:
            key = "text"
        fields[name] = _field(record, key, where, card)
    if card.options is not None:
        fields["options"] = _options(record, where, card)
    return make_example(card, Document(record["id"], fields=fields, source=where))


def _field(record: Mapping[str, Any], key: str, where: str, card: TaskCard) -> str:
    if key not in record:
        raise ReadError(
            f"{where}: has no '{key}', which the input of {card.name} needs. Fix: give it in a .jsonl, as "
            "docs/how_to/running.md says"
        )
    value = record[key]
    if not isinstance(value, str) and not _are_texts(value):
        raise ReadError(f"{where}: '{key}' must be text. Fix: write a text, or a list of texts")
    if card.type in ("ner", "re"):
        if not isinstance(value, str):
            raise ReadError(f"{where}: '{key}' is a list. Fix: write one text, which offsets count in")
        return value
    return as_text(value)


def _are_texts(value: Any) -> TypeGuard[list[str]]:
    return isinstance(value, list) and all(isinstance(part, str) for part in value)


def _options(record: Mapping[str, Any], where: str, card: TaskCard) -> list[Any]:
    """As the card's reader gives them."""
    assert card.options is not None
    value = record.get("options")
    texts = list(value.values()) if isinstance(value, dict) else value
    if not _are_texts(texts) or not all(text.strip() for text in texts):
        raise ReadError(f"{where}: has no 'options', a list of texts. Fix: list the options of the question")
    if len(card.options.columns) > 1:
        return texts
    if card.options.text:
        return [[{card.options.text: text} for text in texts]]
    return [texts]


def _mentions(record: Mapping[str, Any], text: str, where: str, card: TaskCard) -> tuple[Mention, ...]:
    value = record.get("entities")
    if not isinstance(value, list):
        raise ReadError(
            f"{where}: has no 'entities', the ends of the relations. Fix: list them with type, start "
            "and end, in a .jsonl"
        )
    mentions = []
    for number, item in enumerate(value, start=1):
        if not isinstance(item, dict) or not _is_span(item, len(text)):
            raise ReadError(
                f"{where}: entity {number} needs a type, and a start and an end within the text. Fix: count "
                "characters from 0, the end excluded"
            )
        ids = item.get("ids", [])
        if not _are_texts(ids) or not all(ids) or (card.relations.level == "entity" and not ids):
            raise ReadError(
                f"{where}: entity {number} has no 'ids', concept identifiers. Fix: list them, relations of "
                f"{card.name} are between concepts"
            )
        mentions.append(
            Mention(str(item.get("key", f"T{number}")), item["type"], item["start"], item["end"], ids=tuple(ids))
        )
    if len({mention.key for mention in mentions}) < len(mentions):
        raise ReadError(f"{where}: two entities have the same key. Fix: give each its own, or none")
    return tuple(sorted(mentions, key=mention_order))


def _is_span(item: Mapping[str, Any], length: int) -> bool:
    kind, start, end = (item.get(key) for key in ("type", "start", "end"))
    if not isinstance(kind, str) or not kind or not isinstance(start, int) or not isinstance(end, int):
        return False
    return 0 <= start < end <= length and not isinstance(start, bool) and not isinstance(end, bool)


def note_result(card: TaskCard, pieces: Sequence[Example], answers: Sequence[str]) -> dict[str, Any]:
    """What the answers to a note's pieces say, in the note's own offsets.

    NER: `spans` (type, start, end, text as the note has it). RE: `relations` (type, head, tail: keys of the entities,
        or concepts). Choice: `label`
    (and the `choice`'s text). Free text: `text`. `unaligned`: lines of an answer that name nothing of the note.
    """
    parsed = [parse_answer(card, piece, answer) for piece, answer in zip(pieces, answers, strict=True)]
    lines = [answer for answer in answers if answer.strip().casefold() != NONE and answer.strip()]
    result: dict[str, Any] = {"answer": "\n".join(lines) or (answers[0] if answers else "")}
    if card.type == "ner":
        result["spans"] = _spans(pieces, parsed)
    elif card.type == "re":
        result["relations"] = _relations(parsed)
    else:
        result |= parsed[0]
        choices = pieces[0].gold.get("choices")
        if choices and result["label"] is not None:
            result["choice"] = choices[pieces[0].gold["options"].index(result["label"])]
    if card.type in ("ner", "re"):
        result["unaligned"] = list(chain.from_iterable(one["unaligned"] for one in parsed))
    return result


def _spans(pieces: Sequence[Example], parsed: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The spans of all pieces, each once, in text order, with the text that the note has there."""
    texts: dict[tuple[int, int, str], str] = {}
    for piece, one in zip(pieces, parsed, strict=True):
        text, offset = document_of(piece).text, piece.gold["offset"]
        for span in one["spans"]:
            start, end = span["start"], span["end"]
            texts[start, end, span["type"]] = text[start - offset : end - offset]
    spans = []
    for start, end, kind in sorted(texts, key=lambda key: (key[0], -key[1], key[2])):
        spans.append({"type": kind, "start": start, "end": end, "text": texts[start, end, kind]})
    return spans


def _relations(parsed: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The relations of all pieces, each once."""
    unique: dict[tuple[str, str, str], dict[str, Any]] = {}
    for one in parsed:
        for item in one["relations"]:
            triple = {"type": item["type"], "head": item["head"], "tail": item["tail"]}
            unique.setdefault((item["type"], item["head"], item["tail"]), triple)
    return list(unique.values())


def brat_lines(result: Mapping[str, Any]) -> str:
    """The spans of a NER result as a brat `.ann` file; a span over a line break is written in fragments, as brat
    has them.
    """
    out = []
    for number, span in enumerate(result["spans"], start=1):
        lines = list(re.finditer(r"[^\r\n]+", span["text"]))
        places = ";".join(f"{span['start'] + line.start()} {span['start'] + line.end()}" for line in lines)
        text = " ".join(line[0] for line in lines)
        out.append(f"T{number}\t{'_'.join(span['type'].split())} {places}\t{text}\n")
    return "".join(out)
