"""What cached rows are named after: everything that they were made from."""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from clinical_tasks import TaskCard
from clinical_tasks.corpus import code_versions, split_files
from clinical_tasks.readers import find_files, is_file
from engine.data.file_digests import FileDigests

if TYPE_CHECKING:  # cards and corpora can be looked at without torch
    from backbones import Layout

CACHE_FORMAT = "4"  # of the rows: which there are of an example, and how they are written


def cache_key(
    card: TaskCard,
    split: str,
    root: Path,
    layout: "Layout",
    max_length: int,
    limit: int,
    digests: FileDigests,
) -> str:
    """Hash of all that a split's rows depend on: files, card, versions of the code, tokenizer, template, lengths.

    Raises:
        ReadError: a file cannot be read.
    """
    parts = (CACHE_FORMAT, card.fingerprint(), split, layout.fingerprint(), max_length, limit)
    digest = hashlib.sha256("|".join(map(str, parts)).encode())
    digest.update(examples_key(card, split, root, digests))
    return digest.hexdigest()[:24]


def examples_key(card: TaskCard, split: str, root: Path, digests: FileDigests) -> bytes:
    """Hash of the versions of the code and of the released files that decide a split's examples."""
    digest = hashlib.sha256(code_versions(card).encode())
    for path in source_files(card, split, root):
        digest.update(f"{path.name}\0{digests.of(path)}\n".encode())
    return digest.digest()


def source_files(card: TaskCard, split: str, root: Path) -> list[Path]:
    """The released files that decide a split's examples, those it is held out of or loses its hold-outs to included."""
    related = []
    for name, spec in card.splits.items():
        if name in (split, card.splits[split].hold_out_from) or spec.hold_out_from == split:
            related.append(name)
    found: set[Path] = set()
    for name in related:
        found.update(split_files(card, root, name).found)
        for ids in (card.splits[name].ids_from, card.splits[name].ids_not_in):
            if ids:
                found.update(find_files(root / card.folder, ids))
    if card.reader == "brat":  # either half of a pair may be the one the card names
        for path in list(found):
            found |= {path.with_suffix(".txt"), path.with_suffix(".ann")}
    return sorted(filter(is_file, found))
