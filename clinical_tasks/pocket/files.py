"""The pocket corpus on disk, in the grammar of each release: brat, i2b2 2010, PubTator, tables and sheets;
`releases.py` has the others.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from clinical_tasks.pocket import releases
from clinical_tasks.pocket.annotated import Corpus
from clinical_tasks.pocket.sheets import workbook
from clinical_tasks.schema import Document, Mention, TaskCard

_RELEASES = {
    "i2b2_2009": releases.i2b2_2009,
    "i2b2_2012": releases.i2b2_2012,
    "chemprot": releases.chemprot,
    "ddi": releases.ddi,
}


def write_annotated(folder: Path, corpus: Corpus, split: str, documents: Sequence[Document]) -> None:
    """A split of an annotated corpus below its folder."""
    if corpus.format == "pubtator":
        abstracts = [_pubtator(document) for document in documents]
        _write(folder / f"{split}.PubTator.txt", _lines(abstracts))
        _write(folder / f"{split}.BioC.xml", releases.bioc(documents))
        return
    if corpus.format in _RELEASES:
        for name, text in _RELEASES[corpus.format](documents):
            _write(folder / split / name, text)
        return
    for number, document in enumerate(documents):
        if corpus.format == "brat":
            _write(folder / split / f"{number:05d}.txt", document.text)
            _write(folder / split / f"{number:05d}.ann", _standoff(corpus, document))
        else:
            concepts, relations = _i2b2(document)
            _write(folder / split / "txt" / f"{number:05d}.txt", document.text)
            _write(folder / split / "concept" / f"{number:05d}.con", concepts)
            _write(folder / split / "rel" / f"{number:05d}.rel", relations)


def write_rows(card: TaskCard, folder: Path, parts: dict[str, list[dict[str, Any]]]) -> None:
    """All splits of a task over rows, under the file names of its card; a split held out of another lies in that
    one's file.
    """
    files: dict[str, list[dict[str, Any]]] = {}
    for split, rows in parts.items():
        spec = card.splits[card.splits[split].hold_out_from or split]
        files.setdefault(spec.files[0], []).extend(rows)
        if spec.ids_from:
            decisions = {row["$key"]: row["final_decision"] for row in rows}
            _write(folder / spec.ids_from, _json(decisions))
    for name, rows in files.items():
        if card.reader in ("csv", "tsv"):
            _write_table(folder / name, card, rows)
        elif card.reader == "xlsx":
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(workbook(rows))
        elif card.reader == "jsonl":
            _write(folder / name, _lines([json.dumps(row) for row in rows]))
        else:
            _write(folder / name, _json(_nested(card, rows)))


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode())


def _lines(lines: Iterable[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def _json(content: Any) -> str:
    return json.dumps(content, indent=1) + "\n"


def _nested(card: TaskCard, rows: list[dict[str, Any]]) -> Any:
    """Rows at the place where the card's reader looks for records; what begins with $ is the place, not the row."""
    bare = [_without_place(row) for row in rows]
    if card.reader == "squad":
        paragraphs = []
        for row, own in zip(rows, bare, strict=True):
            paragraphs.append({"note_id": row["$parent"]["note_id"], "context": own.pop("context"), "qas": [own]})
        return {"data": [{"title": card.reader_options["titles"][0], "paragraphs": paragraphs}]}
    if card.columns.get("id") == ("$key",):
        return {row["$key"]: own for row, own in zip(rows, bare, strict=True)}
    if card.reader_options.get("orient") == "columns":
        columns: dict[str, dict[str, Any]] = {name: {} for name in bare[0]}
        for number, own in enumerate(bare):
            for name, column in columns.items():
                column[str(number)] = own[name]
        return columns
    if card.reader_options.get("records") == "exams.*.data":
        exams: dict[str, dict[str, Any]] = {}
        for row, own in zip(rows, bare, strict=True):
            name = row["$parent"]["$key"]
            exam = exams.setdefault(name, {"name": name, "year": "2026", "category": "medicine", "data": []})
            exam["data"].append(own)
        return {"version": "1.0", "language": "en", "exams": exams}
    return bare


def _without_place(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if not name.startswith("$")}


def _write_table(path: Path, card: TaskCard, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        if card.reader == "tsv":
            file.writelines("\t".join(row.values()) + "\n" for row in rows)
            return
        writer = csv.writer(file, lineterminator="\r\n")
        writer.writerow(rows[0])
        writer.writerows(row.values() for row in rows)


def _standoff(corpus: Corpus, document: Document) -> str:
    lines = []
    for m in document.mentions:
        lines.append(f"{m.key}\t{m.type} {m.start} {m.end}\t{releases.quoted(document.text, m)}")
    if corpus.events:
        lines += _event_lines(corpus, document)
    else:
        for number, item in enumerate(document.relations, start=1):
            lines.append(f"R{number}\t{item.type} Arg1:{item.head} Arg2:{item.tail}")
    names = dict(corpus.attributes)
    marked = [mention for mention in document.mentions if mention.type in names]
    for number, m in enumerate(marked, start=1):
        lines.append(f"A{number}\t{names[m.type]} {m.key} {document.text[m.start : m.end]}")
    return _lines(lines)


def _event_lines(corpus: Corpus, document: Document) -> Iterable[str]:
    """An event for each trigger, with all that the trigger relates to as its arguments."""
    roles = dict(corpus.roles)
    triggers = [mention for mention in document.mentions if mention.type in corpus.events]
    for number, trigger in enumerate(triggers, start=1):
        line = f"E{number}\t{trigger.type}:{trigger.key}"
        for item in document.relations:
            if item.head == trigger.key:
                line += f" {roles.get(item.type, item.type)}:{item.tail}"
        yield line


def _i2b2(document: Document) -> tuple[str, str]:
    """The contents of `.con` and `.rel`."""
    named = {mention.key: _concept(document.text, mention) for mention in document.mentions}
    concepts = [f'{named[mention.key]}||t="{mention.type}"' for mention in document.mentions]
    relations = [f'{named[item.head]}||r="{item.type}"||{named[item.tail]}' for item in document.relations]
    return _lines(concepts), _lines(relations)


def _concept(text: str, mention: Mention) -> str:
    return f'c="{releases.quoted(text, mention).lower()}" {releases.places(text, mention)}'


def _pubtator(document: Document) -> str:
    title, _, abstract = document.text.partition("\n")
    texts = (f"{document.doc_id}|t|{title}", f"{document.doc_id}|a|{abstract}")
    return _lines([*texts, *_pubtator_rows(document)])


def _pubtator_rows(document: Document) -> Iterable[str]:
    for mention in document.mentions:
        words = document.text[mention.start : mention.end]
        yield "\t".join(
            (document.doc_id, str(mention.start), str(mention.end), words, mention.type, "|".join(mention.ids))
        )
    for item in document.relations:
        yield "\t".join((document.doc_id, item.type, item.head, item.tail))
