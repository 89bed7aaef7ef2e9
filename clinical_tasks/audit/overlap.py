"""Which test documents of one task are also training documents of another: unseen tasks must be unseen.

Found by three ways, all on inputs only (answers and options are not compared):

id    the same document: one released file, or an id of at least six digits (PMIDs, MIMIC ids) under whatever folder and
task, and
      at least `MIN_WITH_ID` runs of five words in common: two releases may use one number for different documents.
      Shorter ids count rows of a file in one release after the other, and say nothing.
text  the same words, whatever their case, punctuation and white space.
near  at least `MIN_SHARED` runs of five words in common, and at least `SHARE` of those of the shorter text. So a
sentence of a note is
      found in the note. This is counted, not estimated: the test documents of all targets are held as 64-bit hashes (12
      bytes a word), the training documents are read past them one at a time. Runs that more than `COMMON` test
      documents hold are boilerplate and ignored.
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from clinical_tasks.corpus import is_labelled, stream_documents
from clinical_tasks.schema import Document, TaskCard, as_text
from strict_yaml import counted

RUN = 5
MIN_SHARED = 10
MIN_WITH_ID = 3
SHARE = 0.5
COMMON = 100
# A test document longer than this is represented by its lowest hashes: a fair sample, the same for equal texts.
MAX_RUNS = 1 << 14
_WORD = re.compile(r"\w+")
_FACTOR = np.uint64(0x9E3779B97F4A7C15)
_APART = ("document", "answer", "options")

Hashes = np.ndarray[Any, np.dtype[np.uint64]]
Owners = np.ndarray[Any, np.dtype[np.uint32]]
Counts = np.ndarray[Any, np.dtype[np.int64]]


@dataclass
class Overlap:
    """Of a target's test documents with a source's training documents; rows of one document or group count once on
    the target's side.
    """

    target: str
    source: str
    test_documents: int
    by_id: int = 0
    same_text: int = 0
    near: int = 0
    affected: int = 0
    """Test documents found by any of the three."""
    train_examples: int = 0
    """Training documents (rows) of the source that one of them was found in."""

    def line(self) -> str:
        """For people."""
        counts = {"by id": self.by_id, "same text": self.same_text, "near": self.near}
        ways = ", ".join(f"{count} {way}" for way, count in counts.items() if count)
        test = f"{self.affected} of {self.test_documents} test documents of {self.target}"
        verb = "is" if self.affected == 1 else "are"
        return f"{test} {verb} in {counted(self.train_examples, 'training example')} of {self.source} ({ways})"


@dataclass
class Overlaps:
    """`pairs`: those with any overlap. `sources`: source -> ids of its training documents that hold something of a
    target's test set.
    """

    pairs: list[Overlap] = field(default_factory=list)
    sources: dict[str, set[str]] = field(default_factory=dict)


def find_overlaps(targets: Sequence[TaskCard], sources: Sequence[TaskCard], data_root: Path | str) -> Overlaps:
    """Every target's test split against every source's train split; a task may be both. Raises `ReadError`."""
    index = _Index()
    for target in targets:
        for document in _labelled(target, data_root, "test"):
            index.add(target, document)
    index.close()
    result = Overlaps()
    for source in sources:
        if "train" not in source.splits:
            continue
        found: dict[str, dict[str, set[int]]] = defaultdict(lambda: defaultdict(set))
        examples: dict[str, int] = defaultdict(int)
        ids: set[str] = set()
        for document in _labelled(source, data_root, "train"):
            by_target: dict[str, bool] = {}
            for way, owners in index.look_up(source, document).items():
                for owner in owners:
                    target_name = index.target_of[owner]
                    found[target_name][way].add(owner)
                    by_target[target_name] = True
            for name in by_target:
                examples[name] += 1
            if by_target.keys() - {source.name}:
                ids.add(document.doc_id)
        for name, ways in found.items():
            overlap = Overlap(
                target=name,
                source=source.name,
                test_documents=index.documents[name],
                by_id=len(ways["id"]),
                same_text=len(ways["text"]),
                near=len(ways["near"]),
                affected=len(set().union(*ways.values())),
                train_examples=examples[name],
            )
            result.pairs.append(overlap)
        if ids:
            result.sources[source.name] = ids
    return result


def _labelled(card: TaskCard, data_root: Path | str, split: str) -> Iterator[Document]:
    return (document for document in stream_documents(card, data_root, split) if is_labelled(card, document))


class _WordHashes(dict[str, int]):
    """64 bits a word, the same in every process."""

    def __missing__(self, word: str) -> int:
        if len(self) > 1 << 20:
            self.clear()
        value = self[word] = int.from_bytes(
            hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little"
        )
        return value


class _Index:
    """The targets' test documents. An owner is one of them, by number."""

    def __init__(self) -> None:
        self.target_of: list[str] = []
        self.documents: dict[str, int] = defaultdict(int)
        self._words = _WordHashes()
        self._groups: dict[tuple[str, str], int] = {}
        self._ids: dict[str, set[int]] = defaultdict(set)
        self._texts: dict[int, set[int]] = defaultdict(set)
        self._hashes: list[Hashes] = []
        self._owners: list[Owners] = []

    def add(self, card: TaskCard, document: Document) -> None:
        group = (card.name, str(document.fields.get("document", document.doc_id)))
        owner = self._groups.setdefault(group, len(self.target_of))
        if owner == len(self.target_of):
            self.target_of.append(card.name)
            self.documents[card.name] += 1
        for key in _keys(card, document):
            self._ids[key].add(owner)
        text, runs = self._hashed(document)
        if text is not None:
            self._texts[text].add(owner)
        runs = runs[:MAX_RUNS]  # they are sorted
        self._hashes.append(runs)
        self._owners.append(np.full(len(runs), owner, dtype=np.uint32))

    def close(self) -> None:
        """Sort; no more is added."""
        hashes = np.concatenate([*self._hashes, np.empty(0, np.uint64)])
        owners = np.concatenate([*self._owners, np.empty(0, np.uint32)])
        self._hashes, self._owners = [], []
        order = np.lexsort((owners, hashes))
        hashes, owners = hashes[order], owners[order]
        new = np.ones(len(hashes), dtype=bool)  # rows of one group may repeat its text
        new[1:] = (hashes[1:] != hashes[:-1]) | (owners[1:] != owners[:-1])
        hashes, self._owner_of = hashes[new], owners[new]
        self._unique, self._starts, counts = np.unique(hashes, return_index=True, return_counts=True)
        self._counts = np.where(counts > COMMON, 0, counts)
        kept = np.repeat(self._counts > 0, counts)
        self._sizes = np.bincount(self._owner_of[kept], minlength=len(self.target_of))

    def look_up(self, card: TaskCard, document: Document) -> dict[str, set[int]]:
        """way -> the owners that a training document holds."""
        text, runs = self._hashed(document)
        same = self._texts.get(text, set()) if text is not None else set()
        named = set().union(*(self._ids.get(key, ()) for key in _keys(card, document)))
        owners, shared, shorter = self._shared(runs, MIN_WITH_ID if named else MIN_SHARED)
        near = set(owners[(shared >= MIN_SHARED) & (shared >= SHARE * shorter)].tolist())
        return {"id": named & (same | set(owners[shared >= MIN_WITH_ID].tolist())), "text": same, "near": near - same}

    def _shared(self, runs: Hashes, least: int) -> tuple[Owners, Counts, Counts]:
        """(owners, runs in common with each, runs of the shorter of both), boilerplate aside; none where fewer than
        `least` are in common.
        """
        none = np.empty(0, np.uint32), np.empty(0, np.int64), np.empty(0, np.int64)
        if not len(self._unique) or len(runs) < least:
            return none
        places = np.minimum(np.searchsorted(self._unique, runs), len(self._unique) - 1)
        places = places[self._unique[places] == runs]
        counts = self._counts[places]
        boilerplate = int((counts == 0).sum())
        places, counts = places[counts > 0], counts[counts > 0]
        if len(places) < least:
            return none
        inner = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        owners, shared = np.unique(self._owner_of[np.repeat(self._starts[places], counts) + inner], return_counts=True)
        return owners, shared, np.minimum(self._sizes[owners], len(runs) - boilerplate)

    def _hashed(self, document: Document) -> tuple[int | None, Hashes]:
        """(of the whole text, of its runs of five words: sorted, each once)."""
        known = self._words
        words = np.array([known[word] for word in _WORD.findall(text_of(document).lower())], dtype=np.uint64)
        if not len(words):
            return None, words
        whole = int.from_bytes(hashlib.blake2b(words.tobytes(), digest_size=8).digest(), "little")
        count = len(words) - RUN + 1
        runs = np.zeros(max(count, 0), dtype=np.uint64)
        for start in range(RUN if count > 0 else 0):
            runs = (runs ^ words[start : start + count]) * _FACTOR
        return whole, np.unique(runs)


def text_of(document: Document) -> str:
    """What a model reads of a document, without the task's template, its answer and its options."""
    return document.text or "\n".join(as_text(value) for name, value in document.fields.items() if name not in _APART)


def _keys(card: TaskCard, document: Document) -> Iterator[str]:
    """What two tasks may know a document by."""
    group = str(document.fields.get("document", document.doc_id))
    if not document.fields:
        yield f"{card.folder}/{document.doc_id}"
    elif not {"id", "document"} & card.columns.keys():
        return
    name = group.rsplit("/", 1)[-1]
    if sum(character.isdigit() for character in name) >= 6:
        yield name
