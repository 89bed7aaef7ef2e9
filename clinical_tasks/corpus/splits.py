"""From a card and a data root to the documents and examples of a split."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from clinical_tasks.readers import READER_VERSIONS, READERS, find_files, read_text
from clinical_tasks.schema import Document, Example, ReadError, SplitSpec, TaskCard, did_you_mean, read_error
from clinical_tasks.text_pairs import TEXT_PAIRS_VERSION, make_example

# Of which documents a split holds, and in what order. Token rows are cached under it: raise it whenever that may change.
SPLITS_VERSION = 1


@dataclass(frozen=True)
class SplitFiles:
    """The files of a split: those found, and the release names (or globs) that match nothing."""

    found: tuple[Path, ...]
    missing: tuple[str, ...]


def split_files(card: TaskCard, data_root: Path | str, split: str) -> SplitFiles:
    """Resolve a split's file names and globs under `data_root/<folder>`, id files included."""
    folder = Path(data_root) / card.folder
    spec = card.splits[card.splits[split].hold_out_from or split]
    found: dict[Path, None] = {}
    missing = []
    for name in spec.files:
        matches = find_files(folder, name)
        found.update(dict.fromkeys(matches))
        if not matches:
            missing.append(name)
    missing += [name for name in (spec.ids_from, spec.ids_not_in) if name and not find_files(folder, name)]
    return SplitFiles(tuple(found), tuple(missing))


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
    return (
        make_example(card, document)
        for document in stream_documents(card, data_root, split)
        if is_labelled(card, document)
    )


def read_documents(card: TaskCard, data_root: Path | str, split: str, *, as_released: bool = False) -> list[Document]:
    """The documents behind a split; `as_released` keeps those that another split holds out of it, for counting."""
    return list(stream_documents(card, data_root, split, as_released=as_released))


def stream_documents(
    card: TaskCard, data_root: Path | str, split: str, *, as_released: bool = False
) -> Iterator[Document]:
    """The same, one at a time; memory is that of the ids, and of what the reader holds (a json file whole, say)."""
    if split not in card.splits:
        known = ", ".join(card.splits)
        raise ReadError(
            f"task {card.name} has no split '{split}'{did_you_mean(split, card.splits)}. Fix: use one of {known}"
        )
    parent = card.splits[split].hold_out_from
    for document in _released(card, data_root, parent or split):
        if (as_released and not parent) or holder(card, parent or split, document) == split:
            yield document


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


def _released(card: TaskCard, data_root: Path | str, split: str) -> Iterator[Document]:
    folder = Path(data_root) / card.folder
    files = split_files(card, data_root, split)
    if files.missing:
        reason = f"task {card.name}, split {split}: not found: {', '.join(files.missing)}"
        raise read_error(
            folder,
            reason,
            fix=f"put the released files there under these names, or correct splits.{split} in {card.path}",
        )
    documents: Iterable[Document] = READERS[card.reader](list(files.found), card, folder)
    first: dict[str, str] = {}
    for document in _filter_ids(documents, card.splits[split], folder):
        if document.doc_id in first:
            fix = "give each an id of its own" + (
                ", or drop columns.id from the card to number the rows" if "id" in card.columns else ""
            )
            raise ReadError(f"{document.source}: the same id as at {first[document.doc_id]}. Fix: {fix}")
        first[document.doc_id] = document.source
        yield document
    if not first:
        raise read_error(
            folder, f"task {card.name}, split {split}: the files hold no documents", fix=f"check splits.{split}"
        )


def _filter_ids(documents: Iterable[Document], spec: SplitSpec, folder: Path) -> Iterable[Document]:
    for name, wanted in ((spec.ids_from, True), (spec.ids_not_in, False)):
        if name:
            documents = _with_ids(documents, folder / name, _read_ids(find_files(folder, name)[0]), wanted)
    return documents


def _with_ids(documents: Iterable[Document], path: Path, ids: set[str], wanted: bool) -> Iterator[Document]:
    unseen = set(ids)
    for document in documents:
        unseen.discard(document.doc_id)
        if (document.doc_id in ids) == wanted:
            yield document
    if unseen:
        reason = f"{len(unseen)} of {len(ids)} ids are not in the split's files"
        raise read_error(path, reason, fix="check columns.id and that the files belong together")


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
