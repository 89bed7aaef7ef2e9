"""From the released files of a run's tasks to the cache of their token rows, and the keys that the rows lie under.

A split that was never built is hashed while it is read, and its key known at the end. Splits of a task that lie in the
same files are made from one reading of them.
"""

import contextlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import clinical_tasks
from clinical_tasks import TaskCard
from clinical_tasks.corpus import splits_by_files, stream_splits
from clinical_tasks.readers import watching_files
from engine.config import DataConfig
from engine.core import UserError
from engine.data.cache_keys import cache_key, source_files
from engine.data.file_digests import FileDigests
from engine.data.row_writer import RowWriter, TokenisedTexts
from engine.data.token_cache import Keys, building, damage_of_rows, is_whole, mark_failed, raise_if_refused

if TYPE_CHECKING:  # cards and corpora can be looked at without torch
    from backbones import Layout


@dataclass(frozen=True)
class Corpora:
    """Released files on one side, a cache of their rows on the other."""

    cards: dict[str, TaskCard]
    root: Path
    cache: Path
    config: DataConfig
    layout: "Layout"
    digests: FileDigests
    print_rank0: Callable[[str], None]

    @cached_property
    def texts(self) -> TokenisedTexts:
        return TokenisedTexts(self.layout)

    def request(self, tasks: Mapping[str, Sequence[str]]) -> str:
        """What is asked for, alike on every rank."""
        c = self.config
        limits = (c.max_length, c.max_train, c.max_validation, c.max_test)
        wanted = [(task, self.cards[task].fingerprint(), list(splits)) for task, splits in tasks.items()]
        return json.dumps([str(self.root), self.layout.fingerprint(), limits, wanted])

    def limit(self, split: str) -> int:
        c = self.config
        return {"train": c.max_train, "validation": c.max_validation, "test": c.max_test}[split]

    def place(self, task: str, split: str) -> Path:
        """The folder of the split's rows, but for the key at the end of its name."""
        return self.cache / f"{task}-{split}"

    def folder(self, task: str, split: str, key: str) -> Path:
        return self.cache / f"{task}-{split}-{key}"

    def was_built(self, task: str, split: str) -> bool:
        """Whether any rows of the split are in the cache, of whatever files and lengths."""
        return next(self.cache.glob(f"{task}-{split}-*"), None) is not None

    def key_of(self, task: str, split: str) -> str:
        card = self.cards[task]
        length, limit = self.config.max_length, self.limit(split)
        return cache_key(card, split, self.root, self.layout, max_length=length, limit=limit, digests=self.digests)

    def key(self, task: str, splits: Sequence[str], keys: dict[str, str]) -> None:
        """Add the keys of a task's splits. Files are read where their digests are not known."""
        for split in splits:
            self.check_split(task, split)
            keys[split] = self.key_of(task, split)

    def check_split(self, task: str, split: str) -> None:
        card = self.cards[task]
        if split not in card.splits:
            raise UserError(f"task {task}: its card has no split {split!r} ({card.path})")

    def build(self, task: str, splits: Sequence[str], keys: dict[str, str]) -> None:
        """Make a task's splits as far as they are missing or damaged, and add their keys.

        Where a split was never built and its files were never hashed, its key is found while they are read.
        """
        card, missing = self.cards[task], []
        for split in splits:
            self.check_split(task, split)
            files = source_files(card, split, self.root)
            if self.was_built(task, split) or None not in map(self.digests.known, files):
                key = self.key_of(task, split)
                if is_whole(
                    self.folder(task, split, key),
                    what=f"task {task}: split {split}",
                    damage=damage_of_rows,
                    print_rank0=self.print_rank0,
                ):
                    keys[split] = key
                    continue
                missing.append((split, key))
            else:
                missing.append((split, ""))
        known = {split: key for split, key in missing if key}
        try:
            for group in splits_by_files(card, self.root, [split for split, _ in missing]):
                finals = [self.folder(task, split, known[split]) for split in group if split in known]
                with building(finals):
                    keys.update(_build(card, splits=group, corpora=self, known=known))
        except Exception as error:
            self.mark_failed(task, [split for split, _ in missing if split not in keys])
            if isinstance(error, OSError):
                raise_if_refused(error, [self.cache])
            raise

    def mark_failed(self, task: str, splits: Sequence[str]) -> None:
        """Tell ranks that find keys themselves and wait for these rows."""
        for split in splits:
            with contextlib.suppress(Exception):  # they cannot find the key either
                mark_failed(self.folder(task, split, self.key_of(task, split)))


def _build(card: TaskCard, splits: Sequence[str], corpora: Corpora, known: Mapping[str, str]) -> dict[str, str]:
    """Write the rows of splits that are read from the same files. -> their keys, of which some were known."""
    keys: dict[str, str] = {}
    with contextlib.ExitStack() as stack:
        writers: dict[str, RowWriter] = {}
        for split in splits:
            corpora.cache.mkdir(parents=True, exist_ok=True, mode=0o700)
            place, limit = corpora.place(card.name, split), corpora.limit(split)
            writers[split] = RowWriter(place, card, corpora.texts, corpora.config.max_length, limit)
            stack.callback(writers[split].close)
        with watching_files(corpora.digests.watch):
            for split, example in stream_splits(card, corpora.root, splits):
                writers[split].add(example)
        for split, writer in writers.items():
            writer.finish()
            keys[split] = known.get(split) or corpora.key_of(card.name, split)
            writer.publish(corpora.folder(card.name, split, keys[split]))
    return keys


def each_task(
    tasks: Mapping[str, Sequence[str]],
    find: Callable[[str, Sequence[str], dict[str, str]], None],
    failed: dict[str, list[str]],
) -> Keys:
    """The keys of every task's splits, as far as they can be found; what stands in the way goes into ``failed``."""
    keys: Keys = {}
    for task, splits in tasks.items():
        keys[task] = {}
        try:
            find(task, splits, keys[task])
        except (clinical_tasks.ReadError, clinical_tasks.CardError) as error:
            told = getattr(error, "problems", None) or [str(error)]
            failed[task] = [f"task {task}: {line}" for line in told]
        except UserError as error:
            failed[task] = list(error.problems)
    return keys
