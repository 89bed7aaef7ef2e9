"""Invented records under the released names of the row corpora: what several files of tests begin with."""

from __future__ import annotations

import csv
import io
import json

from clinical_tasks import load_cards, read_split

CARDS = load_cards()


def lines(*records):
    return "".join(json.dumps(record) + "\n" for record in records)


def table(*rows, end="\r\n"):
    file = io.StringIO()
    writer = csv.DictWriter(file, list(rows[0]), lineterminator=end)
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def put(root, card, split, content):
    """A split's file under its released name; `content` is text or bytes."""
    path = root / card.folder / card.splits[card.splits[split].hold_out_from or split].files[0]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def read(name, root, split="test"):
    return [(e.input_text, e.answer_text) for e in read_split(CARDS[name], root, split)]


def everything(name, root):
    """All pairs of a corpus that is held out of one file, whichever split they fall into."""
    return sorted(pair for split in CARDS[name].splits for pair in read(name, root, split))
