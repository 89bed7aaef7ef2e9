"""brat standoff: a `.txt` with the note and an `.ann` beside it. Grammar: https://brat.nlplab.org/standoff.html"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from clinical_tasks.readers.files import is_file, lines_of, name_in, read_text
from clinical_tasks.readers.line_ends import Quote, check_line_ends, refused_together
from clinical_tasks.schema import Document, Mention, Relation, TaskCard, mention_order, read_error

# (line number, id of the annotation, its fields)
Row = tuple[int, str, list[str]]

_NUMBER = re.compile(r"-?[0-9]{1,9}")


def read_brat(paths: list[Path], card: TaskCard, folder: Path) -> Iterator[Document]:
    """One document for each note; its id is the path inside the task's folder without the suffix.

    The files may be the `.txt`, the `.ann` or both (a whole folder); brat's own `.conf` files are passed over.
    Reader option `events: relations` turns each event into (trigger, role, argument) relations; with `events:
    argument_types` the relation is named after the argument's type instead, where that says more than the role (SDOH:
    Status is StatusTime or StatusEmploy).

    Raises `LineEndError` for all notes whose annotations count other line ends than the `.txt` has.
    """
    notes = dict.fromkeys(path.with_suffix(".txt") for path in paths if path.suffix in (".txt", ".ann"))
    events = str(card.reader_options.get("events", "ignore"))
    yield from refused_together(notes, lambda note: _read_note(note, folder, events))


def _read_note(text_path: Path, folder: Path, events: str) -> Document:
    ann_path = text_path.with_suffix(".ann")
    for needed in (text_path, ann_path):
        if not is_file(needed):
            raise read_error(
                needed, "missing beside its twin", fix="put it there; a note without annotations has an empty .ann"
            )
    # A byte order mark is a character of the note: brat counts it.
    text = read_text(text_path, skip_bom=False)
    rows = _rows(ann_path)
    mentions: dict[str, Mention] = {}
    quotes: list[Quote] = []
    for line, key, fields in rows["T"]:
        if key in mentions:
            raise read_error(ann_path, "duplicate id", line=line, fix="give each annotation its own id")
        mentions[key] = _mention(ann_path, line, key, fields)
        quotes.append(Quote(line, mentions[key].fragments, fields[1] if len(fields) > 1 else ""))
    check_line_ends(text_path, annotations=ann_path, text=text, quotes=quotes)
    _check_length(ann_path, quotes, len(text))
    mismatches = [f"{ann_path}:{quote.line}" for quote in quotes if not quote.agrees(text)]
    triggers = _triggers(ann_path, rows["E"], mentions)
    relations = [_relation(ann_path, line, fields, mentions, triggers) for line, _, fields in rows["R"]]
    arguments: list[Relation] = []
    for row in rows["E"]:
        arguments += _event_relations(ann_path, row, mentions, triggers, events)
    _check_targets(ann_path, rows, mentions, triggers)
    _check_ends(ann_path, rows)
    if events != "ignore":
        relations += arguments
    unique = tuple(dict.fromkeys(relations))
    left_out = Counter({f"{kind} lines": len(rows[kind]) for kind in "AM*#N"})
    left_out["relations repeated"] = len(relations) - len(unique)
    if events == "ignore":
        left_out["E lines"] = len(rows["E"])
    return Document(
        doc_id=name_in(text_path.with_suffix(""), folder),
        text=text,
        mentions=tuple(sorted(mentions.values(), key=mention_order)),
        relations=unique,
        source=str(text_path),
        mismatches=tuple(mismatches),
        left_out={name: count for name, count in left_out.items() if count},
    )


def _rows(path: Path) -> dict[str, list[Row]]:
    """The annotation lines by kind. A and M (attributes), `*` (equivalence), `#` (notes) and N (normalisation) are
    counted, not used.
    """
    rows: dict[str, list[Row]] = {kind: [] for kind in "TREAM*#N"}
    for number, line in enumerate(lines_of(path), start=1):
        line = line.rstrip("\r")
        if not line.strip():
            continue
        key, *fields = line.split("\t")
        if key[:1] not in rows:
            raise read_error(
                path, "unknown kind of annotation", line=number, fix="lines begin with one of T R E A M N * #"
            )
        if not fields and key[0] in "TREAM":
            raise read_error(
                path, "no tab after the annotation's id", line=number, fix="separate id and annotation by a tab"
            )
        rows[key[0]].append((number, key, fields))
    return rows


def _mention(path: Path, line: int, key: str, fields: list[str]) -> Mention:
    """`Type start end[;start end...]`; a discontinuous mention keeps its fragments and covers all of them."""
    kind, _, offsets = fields[0].strip().partition(" ")
    spans = []
    try:
        for part in offsets.split(";"):
            first, last = part.split()
            spans.append((_number(first), _number(last)))
    except ValueError:
        raise read_error(
            path, "offsets are not numbers", line=line, fix="write 'Type START END' or 'Type S E;S E'"
        ) from None
    fragments = tuple(sorted(spans))
    start, end = fragments[0][0], max(stop for _, stop in fragments)
    if start < 0 or any(begin >= stop for begin, stop in fragments):
        raise read_error(
            path, "a span is empty or negative", line=line, fix="ends are exclusive and lie after their start"
        )
    return Mention(key, kind, start, end, fragments)


def _check_length(path: Path, quotes: list[Quote], length: int) -> None:
    for quote in quotes:
        end = max(end for _, end in quote.spans)
        if end > length:
            reason = f"offset {end} lies beyond the note's {length} characters"
            fix = "offsets count characters, not bytes; check that .txt and .ann belong together"
            raise read_error(path, reason, line=quote.line, fix=fix)


def _number(text: str) -> int:
    """Stricter than `int`, which also takes 1_000 and +1."""
    if not _NUMBER.fullmatch(text):
        raise ValueError
    return int(text)


def _relation(
    path: Path, line: int, fields: list[str], mentions: dict[str, Mention], triggers: dict[str, str]
) -> Relation:
    """`Type Arg1:T1 Arg2:T2`, which some tools end in a tab. The roles' names do not matter, their order does; an
    event is its trigger.
    """
    kind, *arguments = fields[0].split() or [""]
    ends = [argument.partition(":")[2] for argument in arguments]
    if len(ends) != 2 or not all(ends):
        raise read_error(path, "a relation needs two arguments", line=line, fix="write 'Type Arg1:T1 Arg2:T2'")
    ends = [triggers.get(end, end) for end in ends]
    if not all(end in mentions for end in ends):
        raise read_error(
            path,
            "a relation names a mention that is not in the file",
            line=line,
            fix="add the T line or remove the relation",
        )
    return Relation(kind, ends[0], ends[1])


def _triggers(path: Path, rows: list[Row], mentions: dict[str, Mention]) -> dict[str, str]:
    triggers = {}
    for line, key, fields in rows:
        trigger = (fields[0].split() or [""])[0].partition(":")[2]
        if trigger not in mentions:
            raise read_error(
                path, "an event names a trigger that is not in the file", line=line, fix="write 'Type:T1 Role:T2 ...'"
            )
        if key in triggers:
            raise read_error(path, "duplicate id", line=line, fix="give each annotation its own id")
        triggers[key] = trigger
    return triggers


def _event_relations(
    path: Path, row: Row, mentions: dict[str, Mention], triggers: dict[str, str], events: str
) -> list[Relation]:
    line, key, fields = row
    relations = []
    for argument in fields[0].split()[1:]:
        role, _, target = argument.partition(":")
        target = triggers.get(target, target)
        if target not in mentions:
            raise read_error(
                path, "an event names an argument that is not in the file", line=line, fix="add the T line or remove it"
            )
        # Repeated roles are numbered by brat (Status, Status2): one role.
        kind = role.rstrip("0123456789")
        if events == "argument_types":
            kind = mentions[target].type
        relations.append(Relation(kind, triggers[key], target))
    return relations


def _check_targets(
    path: Path, rows: dict[str, list[Row]], mentions: dict[str, Mention], triggers: dict[str, str]
) -> None:
    relation_keys = {key for _, key, _ in rows["R"]}
    for line, _, fields in rows["A"] + rows["M"]:
        parts = fields[0].split()
        if len(parts) < 2 or not (parts[1] in mentions or parts[1] in triggers or parts[1] in relation_keys):
            raise read_error(
                path,
                "an attribute names a target that is not in the file",
                line=line,
                fix="write 'Name TARGET [value]'",
            )


def _check_ends(path: Path, rows: dict[str, list[Row]]) -> None:
    """Two lines that have run together would otherwise read as one."""
    for kind, most in (("T", 2), ("R", 1), ("E", 1), ("A", 1), ("M", 1), ("N", 2), ("#", 2), ("*", 1)):
        for line, _, fields in rows[kind]:
            if any(fields[most:]):
                fix = "one annotation a line: T, N and # lines have three columns, the others two"
                raise read_error(path, "more columns than this kind of line has", line=line, fix=fix)
