"""ChemProt: three tab-separated files of one set. Offsets run over title + one character + abstract.

abstracts        PMID  title  abstract
entities         PMID  T1     CHEMICAL | GENE-Y | GENE-N  start  end  text
gold_standard    PMID  CPR:4  Arg1:T1   Arg2:T2
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from clinical_tasks.readers.files import lines_of
from clinical_tasks.readers.markup import whole_number
from clinical_tasks.schema import Document, Mention, Relation, TaskCard, mention_order, one_line, read_error
from strict_yaml import counted

_KINDS = ("abstracts", "entities", "gold_standard", "relations")
_JOINT = "\n"
_SENTENCE_END = re.compile(r"(?<=[.!?]) ")

# (file, line, columns after the PMID)
Row = tuple[Path, int, list[str]]


def read_chemprot(paths: list[Path], card: TaskCard, folder: Path) -> Iterator[Document]:
    """One document for each abstract; its id is the PMID. A file's name says which of the three it is.

    With the reader option `sentence_lines` each sentence of an abstract begins a line: a line break stands for the
    space before it, and offsets stay. `relations` files (type, whether it is evaluated, its own name, two arguments)
    are read in the place of `gold_standard` ones.
    """
    files: dict[str, list[Path]] = {kind: [] for kind in _KINDS}
    for path in paths:
        kinds = [kind for kind in _KINDS if kind in path.name]
        if not kinds:
            raise read_error(
                path, "its name does not say what it holds", fix=f"the name must contain one of {', '.join(_KINDS)}"
            )
        files[kinds[0]].append(path)
    entities = _by_document(files["entities"])
    relations = _by_document(files["gold_standard"] + files["relations"])
    for path in files["abstracts"]:
        for key, row in _rows(path):
            yield _document(
                key,
                row,
                entities.pop(key, []),
                relations.pop(key, []),
                card.reader_options.get("sentence_lines") is True,
            )
    for rest in (entities, relations):
        for rows in rest.values():
            path, line, _ = rows[0]
            raise read_error(
                path, "a document that is in no file of abstracts", line=line, fix="list the files of one set together"
            )


def _rows(path: Path) -> Iterator[tuple[str, Row]]:
    for number, line in enumerate(lines_of(path), start=1):
        key, *columns = line.rstrip("\r\t").split("\t")
        if line.strip():
            yield key, (path, number, columns)


def _by_document(paths: list[Path]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for path in paths:
        for key, row in _rows(path):
            found.setdefault(key, []).append(row)
    return found


def _document(key: str, row: Row, entities: list[Row], relations: list[Row], sentence_lines: bool) -> Document:
    path, number, columns = row
    if len(columns) not in (1, 2):
        raise read_error(
            path, counted(len(columns) + 1, "column"), line=number, fix="an abstract has 3: PMID, title, abstract"
        )
    text = _JOINT.join(columns)
    if sentence_lines:
        text = _SENTENCE_END.sub("\n", text)
    mentions: dict[str, Mention] = {}
    mismatches = []
    for entity_path, line, cells in entities:
        mention, quoted = _mention(entity_path, line, cells, text)
        if mention.key in mentions:
            raise read_error(entity_path, "duplicate id in a document", line=line, fix="give each entity its own id")
        mentions[mention.key] = mention
        if one_line(quoted) != one_line(text[mention.start : mention.end]):
            mismatches.append(f"{entity_path}:{line}")
    found = [_relation(relation_path, line, cells, mentions) for relation_path, line, cells in relations]
    unique = tuple(dict.fromkeys(found))
    repeated = len(found) - len(unique)
    return Document(
        doc_id=key,
        text=text,
        mentions=tuple(sorted(mentions.values(), key=mention_order)),
        relations=unique,
        source=f"{path}:{number}",
        mismatches=tuple(mismatches),
        left_out={"relations repeated": repeated} if repeated else {},
    )


def _mention(path: Path, line: int, cells: list[str], text: str) -> tuple[Mention, str]:
    if len(cells) != 5:
        raise read_error(
            path, counted(len(cells) + 1, "column"), line=line, fix="an entity has 6: PMID, id, type, start, end, text"
        )
    key, kind, *places, quoted = cells
    start, end = (
        whole_number(path, line, name="start", text=places[0]),
        whole_number(path, line, name="end", text=places[1]),
    )
    if not start < end <= len(text):
        reason = f"span {start}-{end} is empty or beyond the document's {counted(len(text), 'character')}"
        raise read_error(path, reason, line=line, fix="offsets count characters over title, one character, abstract")
    return Mention(key, kind, start, end), quoted


def _relation(path: Path, line: int, cells: list[str], mentions: dict[str, Mention]) -> Relation:
    if len(cells) not in (3, 5):
        raise read_error(
            path, counted(len(cells) + 1, "column"), line=line, fix="a relation has 4: PMID, type, Arg1:T1, Arg2:T2"
        )
    ends = [cell.partition(":")[2] for cell in cells[-2:]]
    if not all(end in mentions for end in ends):
        raise read_error(
            path,
            "a relation names an entity that the document does not have",
            line=line,
            fix="write 'Arg1:T1' and 'Arg2:T2'",
        )
    return Relation(cells[0], ends[0], ends[1])
