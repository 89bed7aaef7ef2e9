"""Whatever token rows are cached under says which code made them: other output needs another version.

``RECORDED`` holds, for each version, a digest of what went in and of what came out. What goes in is the pocket corpus
in the release format of each reader, and a few files that are less tidy than it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from clinical_tasks import TaskCard, load_cards
from clinical_tasks.corpus import code_versions, split_files, stream_documents
from clinical_tasks.corpus.splits import SPLITS_VERSION
from clinical_tasks.pocket import TASKS, write_pocket_corpus
from clinical_tasks.readers import READER_VERSIONS, READERS
from clinical_tasks.schema import Document, Example
from clinical_tasks.text_pairs import TEXT_PAIRS_VERSION, make_example, split_long

SIZES = {"train": 6, "validation": 2, "test": 3}
PIECE = 150  # characters: pocket notes are longer, so they are cut


class Record(NamedTuple):
    version: int
    came_in: str
    came_out: str


RECORDED = {
    "bioc": Record(1, "d1fc041805088360", "5df9f0fda4c5d60a"),
    "brat": Record(1, "81b52ab21720ca63", "dfb24c585aa633be"),
    "chemprot": Record(1, "15c6c7284eebdbd3", "a1545646436a0098"),
    "csv": Record(1, "a153c014513f6385", "8583a2bf21af10ad"),
    "ddi": Record(1, "346545dcc3209ef6", "7ad264d83e765907"),
    "i2b2": Record(1, "a1d5a5ad624b0a4f", "cec9f5e1de858061"),
    "i2b2_2009": Record(1, "54815c78660d062e", "53fce3f5b87a2927"),
    "i2b2_2012": Record(1, "7a3979beb3c59d43", "0ec88a8b5b6e1747"),
    "json": Record(1, "4c408d79f4d7de11", "55190cbb7a795f71"),
    "jsonl": Record(1, "bc2403cb9172db5b", "bbf0804d103917ea"),
    "pubtator": Record(1, "74d241a89f50f69c", "1c59fb78d836783b"),
    "splits": Record(1, "c32c0b346312e0a6", "1646d6c39d8da928"),
    "squad": Record(1, "20a7d679be61e4d6", "7898eafd3a19d4a7"),
    "text pairs": Record(1, "adce0f58e9c41286", "21d7b375b65e0e66"),
    "tsv": Record(1, "ab6aa5f9b62fc659", "c9825dc5f46a4628"),
    "xlsx": Record(1, "2735bace5c838ee9", "82bb5a49e07ff794"),
}

# Files of readers that meet what pocket notes never have, each with the splits' files of a card.
UNTIDY: dict[str, dict[str, bytes]] = {
    "brat": {
        "train/a.txt": b"No pain\r\nor fever,\xc2\xa0no aspirin.\r\n",
        "train/a.ann": b"T1\tProblem 3 7;12 17\tpain fever\nT2\tDrug 22 29\taspirin\nE1\tUse:T2 Why:T1\n"
        b"#1\tNote E1\tx\n",
    },
    "pubtator": {"train/a.txt": b"7|t|Pain.\n7|a|\n7\t0\t4\tPain\tDisease\tMESH:D1|-1\n\n8|t|None\n8|a|At all.\n"},
    "jsonl": {
        "train/a.jsonl": b'\xef\xbb\xbf{"i": 1, "q": " a\\r\\nb ", "a": 1.0}\n\n{"i": 2, "q": ["x", null], "a": true}\n'
    },
    "csv": {"train/a.csv": b'\xef\xbb\xbfi,q,a\r\n1,"two\r\nlines, ""said""",y\r\n,,\r\n2,  z ,n\r\n'},
    "tsv": {"train/a.tsv": b'i\tq\ta\n1\t"quoted\ty\n2\tU\xe2\x80\xa8Z\tn\n'},
}


def digest_of(content: Any) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def check(name: str, where: str, version: int, came_in: Any, came_out: Any) -> None:
    """Hold what came in and out against what is recorded of this version."""
    found = Record(version, digest_of(came_in), digest_of(came_out))
    recorded = RECORDED.get(name, Record(0, "", ""))
    line = f'"{name}": Record({found.version}, "{found.came_in}", "{found.came_out}"),'
    if found.came_out != recorded.came_out and found.version == recorded.version:
        if found.came_in == recorded.came_in:
            pytest.fail(f"{name}: other output from the same input: raise {where} to {version + 1} and run this again")
        pytest.fail(f"{name}: its input changed, so the version may stay if the code did not: record {line}")
    assert found == recorded, f"record {line}"


def content_of(documents: Iterable[Document]) -> list[Any]:
    """What text pairs are made from. Sources, mismatches and counts are for messages."""
    return [
        [document.doc_id, document.text, document.fields, *map(dataclasses.astuple, annotations(document))]
        for document in documents
    ]


def annotations(document: Document) -> Iterator[Any]:
    yield from document.mentions
    yield from document.relations


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("corpus")
    write_pocket_corpus(root, sizes=SIZES)
    return root


@pytest.fixture(scope="module")
def cards(root: Path) -> dict[str, TaskCard]:
    found = load_cards([root / "cards"])
    return {name: found[name] for name in TASKS}


@pytest.mark.parametrize("reader", READERS)
def test_a_reader_that_reads_other_documents_has_another_version(
    root: Path, cards: dict[str, TaskCard], card: Any, folder: Path, tmp_path: Path, reader: str
) -> None:
    places = [(pocket, root) for pocket in cards.values() if pocket.reader == reader]
    for name, content in UNTIDY.get(reader, {}).items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
    if reader in UNTIDY:
        places.append((untidy_card(card, reader), tmp_path))
    files: dict[str, str] = {}
    documents: list[Any] = []
    for each, data_root in places:
        for split in each.splits:
            found = split_files(each, data_root, split).found
            for path in found:
                files[path.relative_to(data_root).as_posix()] = hashlib.sha256(path.read_bytes()).hexdigest()
            documents += content_of(READERS[reader](list(found), each, data_root / each.folder))
    assert documents, f"no card of the pocket corpus has the reader {reader}"
    where = f'READER_VERSIONS["{reader}"] (clinical_tasks/readers/registry.py)'
    check(reader, where, READER_VERSIONS[reader], files, documents)


def untidy_card(card: Any, reader: str) -> TaskCard:
    splits = {"test": "train/*"}
    if reader in ("brat", "pubtator"):
        options = {"brat": {"events": "relations"}}.get(reader, {})
        made: TaskCard = card("re", reader=reader, reader_options=options, labels=None, splits=splits)
        return made
    columns = {"id": "i", "question": "q", "answer": "a"}
    return card("qa", reader=reader, columns=columns, splits=splits)  # type: ignore[no-any-return]


def test_splits_of_other_documents_have_another_version(card: Any, folder: Path, tmp_path: Path) -> None:
    mine = card(
        "qa",
        columns={"id": "i", "document": "d", "question": "q", "answer": "a"},
        ignore_labels=["?"],
        splits={
            "train": {"files": ["b.jsonl", "*.jsonl"], "ids_not_in": "ids.txt"},
            "validation": {"hold_out": {"from": "train", "fraction": 0.2}},
            "test": {"files": "a.jsonl", "ids_from": "ids.txt"},
        },
    )
    came_in = {}
    for name, numbers in (("a", range(40)), ("b", range(40, 60)), ("c", range(60, 100))):
        rows = [{"i": str(i), "d": f"d{i // 2}", "q": f"Q{i}", "a": "?" if i % 7 == 0 else "y"} for i in numbers]
        came_in[name] = "\n".join(map(json.dumps, rows))
        (folder / f"{name}.jsonl").write_text(came_in[name])
    (folder / "ids.txt").write_text("\n".join(map(str, range(0, 40, 3))))
    came_out = {split: [d.doc_id for d in stream_documents(mine, tmp_path, split)] for split in mine.splits}
    assert all(came_out.values())
    where = "SPLITS_VERSION (clinical_tasks/corpus/splits.py)"
    check("splits", where, SPLITS_VERSION, came_in, came_out)


def test_other_text_pairs_have_another_version(root: Path, cards: dict[str, TaskCard]) -> None:
    came_in: list[Any] = []
    came_out: list[Any] = []
    for card in cards.values():
        documents = list(stream_documents(card, root, "test"))
        came_in += [card.fingerprint(), *content_of(documents)]
        for document in documents:
            example = make_example(card, document)
            came_out += map(dataclasses.astuple, [example, *pieces_of(example, card)])
    where = "TEXT_PAIRS_VERSION (clinical_tasks/text_pairs/serialise.py)"
    check("text pairs", where, TEXT_PAIRS_VERSION, came_in, came_out)


def pieces_of(example: Example, card: TaskCard) -> list[Example]:
    return split_long(example, card, lambda text, answer: len(text) + len(answer) <= PIECE)


def test_every_reader_has_a_version_and_cards_name_it(cards: dict[str, TaskCard]) -> None:
    assert READER_VERSIONS.keys() == READERS.keys() == RECORDED.keys() - {"splits", "text pairs"}
    card = cards["pocket_mednli"]
    assert (
        code_versions(card)
        == f"jsonl {READER_VERSIONS['jsonl']}, splits {SPLITS_VERSION}, text pairs {TEXT_PAIRS_VERSION}"
    )


@pytest.mark.parametrize(
    ("came_in", "version", "told"),
    [
        ("the same", 1, "x: other output from the same input: raise HERE to 2 and run this again"),
        ("other", 1, 'x: its input changed, so the version may stay if the code did not: record "x": Record(1, '),
        ("the same", 2, 'record "x": Record(2, '),
    ],
)
def test_the_failure_says_which_version_to_raise(
    monkeypatch: pytest.MonkeyPatch, came_in: str, version: int, told: str
) -> None:
    monkeypatch.setitem(RECORDED, "x", Record(1, digest_of("the same"), digest_of("came out")))
    check("x", "HERE", 1, "the same", "came out")
    with pytest.raises((pytest.fail.Exception, AssertionError)) as error:
        check("x", "HERE", version, came_in, "something else came out")
    assert told in str(error.value)
