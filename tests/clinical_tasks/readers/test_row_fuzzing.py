"""Random tables written and read back, and random damage: a right answer or an error that names the place, never a
row lost in silence.
"""

from __future__ import annotations

import csv
import io
import json
import re

import pytest
from hypothesis import HealthCheck, example, given, settings, strategies as st

from clinical_tasks import ReadError
from clinical_tasks.pocket.sheets import workbook
from clinical_tasks.readers import READERS

QUICK = settings(
    max_examples=80,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
CANARY = "Zebulon"
# Whatever a cell may hold: separators, quotes, escapes, wide characters; no surrogates, which no file can hold.
CELL = st.text(
    st.one_of(
        st.sampled_from("a ,;\t\"'\\\n\r\u2028\x85\ufeff\x0b\x1f\U0001f600é_x0D&<>"),
        st.characters(exclude_categories=["Cs"]),
    ),
    max_size=12,
)
FORMATS = ("jsonl", "list", "by_id", "columns", "squad", "csv", "semicolon", "tsv", "xlsx")


def reader_of(kind):
    """Reader, its options, and the columns, for each layout."""
    columns = {"note": "note", "answer": "summary"}
    options = {"by_id": {"orient": "by_id"}, "columns": {"orient": "columns"}, "semicolon": {"delimiter": ";"}}.get(
        kind, {}
    )
    if kind == "squad":
        columns = {"note": "context", "answer": "answers.text"}
    return {"list": "json", "by_id": "json", "columns": "json", "semicolon": "csv"}.get(kind, kind), options, columns


def written(kind, rows):
    """The bytes of a file of this layout with these (note, summary) rows."""
    records = [{"note": note, "summary": summary} for note, summary in rows]
    if kind == "jsonl":
        return "".join(json.dumps(record, ensure_ascii=False) + "\r\n" for record in records).encode()
    if kind in ("csv", "semicolon"):
        file = io.StringIO()
        writer = csv.writer(file, delimiter="," if kind == "csv" else ";", lineterminator="\r\n", quoting=csv.QUOTE_ALL)
        writer.writerows([("note", "summary"), *rows])
        return file.getvalue().encode()
    if kind == "tsv":
        return "".join(f"{note}\t{summary}\n" for note, summary in [("note", "summary"), *rows]).encode()
    if kind == "xlsx":
        return workbook(records)
    content = {
        "list": records,
        "by_id": {str(number): record for number, record in enumerate(records)},
        "columns": {name: [record[name] for record in records] for name in ("note", "summary")},
        "squad": {
            "data": [
                {
                    "title": "t",
                    "paragraphs": [
                        {"context": note, "qas": [{"question": "q", "answers": [{"text": summary}]}]}
                        for note, summary in rows
                    ],
                }
            ]
        },
    }[kind]
    return json.dumps(content, ensure_ascii=False).encode()


@pytest.fixture
def read(card, tmp_path):
    """`read(kind, data)`: (note, summary) of every row, as the reader gives them."""
    cards = {}
    for kind in FORMATS:
        reader, options, columns = reader_of(kind)
        cards[kind] = card("summarization", reader=reader, reader_options=options, columns=columns)

    def run(kind, data):
        path = tmp_path / "fuzzed"
        path.write_bytes(data)
        documents = list(READERS[cards[kind].reader]([path], cards[kind], tmp_path))
        return [(d.fields["note"], first(d.fields["answer"])) for d in documents]

    return run


def first(answer):
    return answer[0] if isinstance(answer, list) else answer


def cleaned(text):
    return (text or "").replace("\r\n", "\n").replace("\r", "\n").strip()


@pytest.mark.parametrize("kind", FORMATS)
@QUICK
@given(rows=st.lists(st.tuples(CELL, CELL), min_size=1, max_size=5))
@example(rows=[('"', "'"), ("a\r\nb", "\ufeffx"), ("\u2028", "x\x85y")])
def test_what_is_written_is_read(read, kind, rows):
    if kind == "tsv":
        rows = [tuple(re.sub(r"[\t\n]", " ", cell) for cell in row) for row in rows]
    # A row of cells with nothing in them is no row in tables and sheets, and an object in JSON.
    expected = [
        row for row in rows if kind not in ("csv", "semicolon", "tsv", "xlsx") or any(cell.strip() for cell in row)
    ]
    found = read(kind, written(kind, rows))
    assert [(cleaned(note), cleaned(summary)) for note, summary in found] == [
        (cleaned(note), cleaned(summary)) for note, summary in expected
    ]


def rows_in(kind, text):
    """How many rows a damaged text holds, counted without the readers."""
    if kind in ("jsonl", "tsv"):
        return sum(bool(line.strip()) for line in text.split("\n")) - (kind == "tsv")
    if kind in ("csv", "semicolon"):
        rows = csv.reader(io.StringIO(text, newline=""), delimiter="," if kind == "csv" else ";")
        return sum(any(cell.strip() for cell in row) for row in rows) - 1
    content = json.loads(text)
    if kind == "columns":
        return len(next(iter(content.values())))
    return (
        sum(len(p["qas"]) for part in content["data"] for p in part["paragraphs"]) if kind == "squad" else len(content)
    )


DAMAGE = st.lists(
    st.tuples(
        st.floats(0, 1, exclude_max=True), st.sampled_from(["flip", "drop", "insert", "cut"]), st.integers(0, 255)
    ),
    min_size=1,
    max_size=3,
)
ROWS = [(f'{CANARY} é {n}, "q"\r\n{n}', f"{CANARY} s{n}") for n in range(4)]


def damaged(data, damage):
    for place, how, byte in damage:
        at = int(place * len(data))
        data = {
            "flip": data[:at] + bytes([byte]) + data[at + 1 :],
            "drop": data[:at] + data[at + 1 :],
            "insert": data[:at] + bytes([byte]) + data[at:],
            "cut": data[:at],
        }[how]
    return data


@pytest.mark.parametrize("kind", FORMATS)
@QUICK
@given(damage=DAMAGE)
def test_damage_is_an_error_or_harmless(read, tmp_path, kind, damage):
    data = damaged(
        written(kind, [(note.replace("\r\n", " "), s) for note, s in ROWS] if kind == "tsv" else ROWS), damage
    )
    try:
        found = read(kind, data)
    except ReadError as error:
        # FILE, FILE:LINE or FILE: record N, then reason and fix; nothing of the file.
        assert re.match(
            re.escape(str(tmp_path / "fuzzed")) + r"(:\d+|: record \d+)?: .+\. Fix: .+", str(error), re.DOTALL
        ), str(error)
        assert CANARY not in str(error) and "Zeb" not in str(error) and error.__cause__ is None
        return
    if kind == "xlsx":
        # A checksum stands over every part.
        assert [(cleaned(note), summary) for note, summary in found] == [
            (cleaned(note), summary) for note, summary in ROWS
        ]
    else:
        assert len(found) == max(0, rows_in(kind, data.decode("utf-8-sig")))
