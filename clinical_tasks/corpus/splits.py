"""From a card and a data root to the documents and examples of a split."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from clinical_tasks.corpus.released_files import split_files
from clinical_tasks.readers import READER_VERSIONS, READERS, find_files, read_text
from clinical_tasks.schema import Document, Example, ReadError, TaskCard, did_you_mean, read_error
from clinical_tasks.text_pairs import TEXT_PAIRS_VERSION, make_example

# Of which documents a split holds, and in what order. Token rows are cached under it: raise it whenever that may
# change.
SPLITS_VERSION = 1


def code_versions(card: TaskCard) -> str:
    """The versions of the code that turns a card's files into text pairs.

    Two runs with the same versions, card and files have the same examples.
    """
    reader = READER_VERSIONS[card.reader]
    return f"{card.reader} {reader}, splits {SPLITS_VERSION}, text pairs {TEXT_PAIRS_VERSION}"


def read_split(card: TaskCard, data_root: Path | str, split: str) -> list[Example]:
    """Every example of a split, whole documents, in release order. Raises `ReadError`."""
    return list(stream_split(card, data_root, split))


def stream_split(card: TaskCard, data_root: Path | str, split: str) -> Iterator[Example]:
    """The same, one at a time. What only the whole split shows (an id that is not there, no documents) is raised at
    its end.
    """
    for _, example in stream_splits(card, data_root, [split]):
        yield example


def stream_splits(card: TaskCard, data_root: Path | str, splits: Sequence[str]) -> Iterator[tuple[str, Example]]:
    """The examples of several splits, each with its split, from one reading of the files.

    The splits are read from the same files, as `splits_by_files` groups them. Memory is that of one document, of the
    ids, and of what the reader holds.
    """
    parents = dict.fromkeys(_parent(card, split) for split in splits)
    for parent, document in _released(card, data_root, list(parents)):
        split = holder(card, parent, document)
        if split in splits and is_labelled(card, document):
            yield split, make_example(card, document)


def splits_by_files(card: TaskCard, data_root: Path | str, splits: Sequence[str]) -> list[list[str]]:
    """The splits in groups that are read from the same files, in the order in which they are named."""
    groups: dict[tuple[Path, ...], list[str]] = {}
    for split in splits:
        groups.setdefault(split_files(card, data_root, split).found, []).append(split)
    return list(groups.values())


def read_documents(card: TaskCard, data_root: Path | str, split: str, *, as_released: bool = False) -> list[Document]:
    """The documents behind a split; `as_released` keeps those that another split holds out of it, for counting."""
    return list(stream_documents(card, data_root, split, as_released=as_released))


def stream_documents(
    card: TaskCard, data_root: Path | str, split: str, *, as_released: bool = False
) -> Iterator[Document]:
    """The same, one at a time; memory is that of the ids, and of what the reader holds (a json file whole, say)."""
    parent = _parent(card, split)
    for _, document in _released(card, data_root, [parent]):
        if (as_released and parent == split) or holder(card, parent, document) == split:
            yield document


def _parent(card: TaskCard, split: str) -> str:
    """The split with the files: itself, or the one that it is held out of."""
    if split not in card.splits:
        known = ", ".join(card.splits)
        raise ReadError(
            f"task {card.name} has no split '{split}'{did_you_mean(split, card.splits)}. Fix: use one of {known}"
        )
    return card.splits[split].hold_out_from or split


def holder(card: TaskCard, parent: str, document: Document) -> str:
    """The split that a document of `parent` belongs to.

    The document's hash is a number in [0, 1); the splits held out take consecutive shares of that interval. Only the id
    is hashed, so tasks over the same notes hold out the same ones: what one task tests on, another does not train on.
    """
    group = str(document.fields.get("document", document.doc_id))
    position = int.from_bytes(hashlib.sha256(group.encode()).digest()[:8], "big") / 2**64
    edge = 0.0
    for split, spec in card.splits.items():
        if spec.hold_out_from == parent:
            edge += spec.fraction
            if position < edge:
                return split
    return parent


def is_labelled(card: TaskCard, document: Document) -> bool:
    """Whether a row takes part: some corpora mark pairs without a consensus label, which the card lists in
    `ignore_labels`.
    """
    return not card.ignore_labels or str(document.fields.get("answer", "")).strip() not in card.ignore_labels


def _released(card: TaskCard, data_root: Path | str, parents: Sequence[str]) -> Iterator[tuple[str, Document]]:
    """The documents of splits with the same files, each with its split; hold-outs are not yet taken out of it."""
    folder = Path(data_root) / card.folder
    for parent in parents:
        files = split_files(card, data_root, parent)
        if files.missing:
            reason = f"task {card.name}, split {parent}: not found: {', '.join(files.missing)}"
            fix = f"put the released files there under these names, or correct splits.{parent} in {card.path}"
            raise read_error(folder, reason, fix=fix)
    lists: dict[str, set[str]] = {}
    released = [_Released(card, folder, name=parent, lists=lists) for parent in parents]
    for document in READERS[card.reader](list(files.found), card, folder):
        for split in released:
            if split.takes(document):
                yield split.name, document
    for split in released:
        split.close()


class _Released:
    """Which documents of its files belong to a split, and whether that is all which should.

    Args:
        lists: the id files that were read already.
    """

    def __init__(self, card: TaskCard, folder: Path, name: str, lists: dict[str, set[str]]):
        self.card, self.folder, self.name = card, folder, name
        self._places: dict[str, str] = {}  # id -> source of the documents taken
        self._filters: list[_IdFilter] = []
        spec = card.splits[name]
        for file, wanted in ((spec.ids_from, True), (spec.ids_not_in, False)):
            if file:
                if file not in lists:
                    lists[file] = _read_ids(find_files(folder, file)[0])
                self._filters.append(_IdFilter(folder / file, lists[file], wanted))

    def takes(self, document: Document) -> bool:
        for ids in self._filters:
            if not ids.passes(document):
                return False
        if document.doc_id in self._places:
            fix = "give each its own id"
            if "id" in self.card.columns:
                fix += ", or drop columns.id from the card to number the rows"
            first = self._places[document.doc_id]
            raise ReadError(f"{document.source}: duplicate id (first at {first}). Fix: {fix}")
        self._places[document.doc_id] = document.source
        return True

    def close(self) -> None:
        """After the last document. Raises `ReadError` for ids that none has, and for a split without documents."""
        for ids in self._filters:
            ids.close()
        if not self._places:
            reason = f"task {self.card.name}, split {self.name}: the files hold no documents"
            raise read_error(self.folder, reason, fix=f"check splits.{self.name}")


class _IdFilter:
    """Documents that an id file lists (`wanted`), or all but these."""

    def __init__(self, path: Path, ids: set[str], wanted: bool):
        self.path, self.ids, self.wanted = path, ids, wanted
        self._unseen = set(ids)

    def passes(self, document: Document) -> bool:
        self._unseen.discard(document.doc_id)
        return (document.doc_id in self.ids) == self.wanted

    def close(self) -> None:
        if self._unseen:
            reason = f"{len(self._unseen)} of {len(self.ids)} ids are not in the split's files"
            raise read_error(self.path, reason, fix="check columns.id and that the files belong together")


def _read_ids(path: Path) -> set[str]:
    """The ids that a file lists: the keys of a JSON object, the items of a JSON list, otherwise the lines."""
    text = read_text(path)
    if path.suffix != ".json":
        return {line.strip() for line in text.split("\n") if line.strip()}
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise read_error(
            path, f"not JSON at column {error.colno}", line=error.lineno, fix="an object by id, or a list of ids"
        ) from None
    if not isinstance(content, (dict, list)):
        raise read_error(path, "neither an object nor a list", fix="an object by id, or a list of ids")
    return {str(item) for item in content}
