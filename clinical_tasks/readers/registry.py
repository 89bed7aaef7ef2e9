"""The readers and the versions of their output, by the name that a card gives."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from clinical_tasks.readers.bioc import read_bioc
from clinical_tasks.readers.brat import read_brat
from clinical_tasks.readers.chemprot import read_chemprot
from clinical_tasks.readers.ddi import read_ddi
from clinical_tasks.readers.i2b2 import read_i2b2
from clinical_tasks.readers.i2b2_2009 import read_i2b2_2009
from clinical_tasks.readers.i2b2_2012 import read_i2b2_2012
from clinical_tasks.readers.json_records import read_json, read_squad
from clinical_tasks.readers.pubtator import read_pubtator_files
from clinical_tasks.readers.tables import read_csv, read_jsonl, read_tsv
from clinical_tasks.readers.xlsx import read_xlsx
from clinical_tasks.schema import Document, TaskCard

Reader = Callable[[list[Path], TaskCard, Path], Iterable[Document]]

READERS: dict[str, Reader] = {
    "brat": read_brat,
    "pubtator": read_pubtator_files,
    "i2b2": read_i2b2,
    "i2b2_2009": read_i2b2_2009,
    "i2b2_2012": read_i2b2_2012,
    "bioc": read_bioc,
    "chemprot": read_chemprot,
    "ddi": read_ddi,
    "jsonl": read_jsonl,
    "json": read_json,
    "csv": read_csv,
    "tsv": read_tsv,
    "squad": read_squad,
    "xlsx": read_xlsx,
}

# Versions of the readers' output. Token rows are cached under them: raise a reader's number whenever it may read other
# documents from the same files, also through a change of what it shares with others (files.py, markup.py, tables.py).
READER_VERSIONS: dict[str, int] = {
    "brat": 1,
    "pubtator": 1,
    "i2b2": 1,
    "i2b2_2009": 1,
    "i2b2_2012": 1,
    "bioc": 1,
    "chemprot": 1,
    "ddi": 1,
    "jsonl": 1,
    "json": 1,
    "csv": 1,
    "tsv": 1,
    "squad": 1,
    "xlsx": 1,
}
