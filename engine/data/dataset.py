"""Released files -> examples -> token rows, once, in an Arrow cache of the run's own.

Happens before the process group starts: a long tokenisation must not run into the group's timeout. Rank 0 reads the
corpora and writes, the others wait (token_cache.py). The first time a file is read, it is hashed as it is read, and all
splits of a task are made from one reading.
"""

import contextlib
import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import clinical_tasks
from clinical_tasks import Example, TaskCard
from clinical_tasks.corpus import splits_by_files, stream_splits
from clinical_tasks.readers import watching_files
from engine.config import DataConfig, expand
from engine.core import UserError
from engine.data.cache_keys import cache_key, source_files
from engine.data.file_digests import FileDigests
from engine.data.row_writer import RowWriter, TokenisedTexts
from engine.data.token_cache import (
    FAILED,
    ROWS,
    Keys,
    await_build,
    building,
    damage_of_rows,
    is_whole,
    mark_failed,
    raise_if_refused,
    shared_keys,
)

if TYPE_CHECKING:  # cards and corpora can be looked at without torch
    from backbones import Layout

LOSS_WARNING = 0.01  # a task that loses more examples than this to max_length is warned about


@dataclass(frozen=True)
class Sample:
    """One token row: context (after the prompt) and answer ids, the latter with the end token."""

    context_ids: list[int]
    answer_ids: list[int]

    def __len__(self) -> int:
        return len(self.context_ids) + len(self.answer_ids)


class Split:
    """One split of one task. Rows longer than ``max_length`` keep their example (evaluation must count them) but are no
    samples.

    Args:
        rows: Arrow dataset with columns context_ids, answer_ids, example (JSON), kept.
        key: hash of everything the rows were made from.
    """

    def __init__(self, rows: Any, key: str = ""):
        self.rows, self.key = rows, key
        kept = rows["kept"][:] if len(rows) else []
        self.kept = [i for i, k in enumerate(kept) if k]
        self.n_dropped = len(rows) - len(self.kept)
        self.n_excluded = 0

    def __len__(self) -> int:
        return len(self.rows)

    def without(self, documents: Collection[str]) -> "Split":
        """The split without the samples of these documents, under another key; ``n_excluded`` counts them."""
        out = Split(self.rows)
        out.kept = [i for i in self.kept if self.example(i).document not in documents]
        out.n_excluded = len(self.kept) - len(out.kept)
        if not out.n_excluded:
            return self
        out.key = hashlib.sha256(json.dumps([self.key, out.kept]).encode()).hexdigest()
        return out

    def labels(self) -> list[str] | None:
        """The gold label of every kept row of a choice task; None where answers are no labels."""
        kept, out, place = set(self.kept), [], 0
        for batch in self.rows.select_columns(["example"]).iter(256):
            for text in batch["example"]:
                if place in kept:
                    label = json.loads(text).get("gold", {}).get("label")
                    if label is None:
                        return None
                    out.append(str(label))
                place += 1
        return out

    def sample(self, index: int) -> Sample:
        row = self.rows[index]
        return Sample(row["context_ids"], row["answer_ids"])

    def answer_lengths(self) -> list[int]:
        """Answer tokens of every row."""
        import pyarrow.compute

        return pyarrow.compute.list_value_length(self.rows.data.column("answer_ids")).to_pylist()  # type: ignore[no-any-return]

    def context_lengths(self) -> list[int]:
        """Context tokens of every row."""
        import pyarrow.compute

        return pyarrow.compute.list_value_length(self.rows.data.column("context_ids")).to_pylist()  # type: ignore[no-any-return]

    def example(self, index: int) -> Example:
        fields = json.loads(self.rows[index]["example"])
        return Example(**{**fields, "options": tuple(fields["options"])})

    def examples(self) -> list[Example]:
        return [self.example(i) for i in range(len(self))]


@dataclass(frozen=True)
class TaskData:
    """A task as a run uses it."""

    card: TaskCard
    splits: dict[str, Split]


def load_cards(config: DataConfig) -> dict[str, TaskCard]:
    """Every card this run may name: embedded ones, then the user's folders.

    Raises:
        UserError: a folder is missing or a card is wrong, all problems at once.
    """
    folders = [expand(folder) for folder in config.cards]
    missing = [f"data.cards: folder {folder} does not exist" for folder in folders if not folder.is_dir()]
    if missing:
        raise UserError(missing)
    try:
        return clinical_tasks.load_cards(folders)
    except clinical_tasks.CardError as error:
        raise UserError(getattr(error, "problems", None) or str(error)) from None


def prepare(
    tasks: dict[str, Sequence[str]], config: DataConfig, layout: "Layout", rank: int = 0, say=print
) -> dict[str, TaskData]:
    """Tokenised splits of the named tasks, from the cache or built now.

    Args:
        tasks: task -> splits wanted.
        rank: 0 builds what is missing; other ranks wait for it.

    Raises:
        UserError: unknown tasks, missing or malformed files, tasks without a usable example: all at once.
    """
    cards = load_cards(config)
    root = expand(config.root)
    problems = []
    if not config.root:
        problems.append("data.root: missing; name the folder that holds the corpora")
    elif not root.is_dir():
        problems.append(f"data.root: {root} is no folder")
    problems += [unknown_task(task, cards) for task in tasks if task not in cards]
    if problems:
        raise UserError(problems)
    cache = expand(config.cache)
    if cache.exists() and not cache.is_dir():
        raise UserError(f"data.cache: {cache} is a file; name a folder")
    source = _Corpora(cards, root, cache, config, layout, FileDigests(cache), say)
    failed: dict[str, list[str]] = {}
    make = source.build if rank == 0 else source.key
    try:
        keys = shared_keys(cache, source.request(tasks), rank, lambda: _each_task(tasks, make, failed))
    finally:
        if rank == 0:
            source.digests.save()
    out: dict[str, TaskData] = {}
    for task, splits in tasks.items():
        try:
            if task in failed:
                raise UserError(failed[task])
            out[task] = TaskData(cards[task], {s: source.open(task, s, keys[task].get(s), rank) for s in splits})
        except UserError as error:
            problems += error.problems
    for task, data in out.items():
        problems += [
            f"task {task}: split {name}: no example fits data.max_length={config.max_length}"
            for name, s in data.splits.items()
            if not s.kept
        ]
    if problems:
        raise UserError(problems)
    if rank == 0:
        _report(out, config.max_length, say)
    return out


def unknown_task(task: str, cards: Iterable[str]) -> str:
    """The sentence that every unknown task gets."""
    import difflib

    near = difflib.get_close_matches(task, list(cards), 1)
    return f"unknown task {task!r}" + (f"; did you mean {near[0]!r}?" if near else "; see `python train.py tasks list`")


def _report(tasks: dict[str, TaskData], max_length: int, say) -> None:
    for name, data in tasks.items():
        for split, rows in data.splits.items():
            if rows.n_dropped > LOSS_WARNING * len(rows):
                share = rows.n_dropped / len(rows)
                say(
                    f"WARNING {name}/{split}: {rows.n_dropped} of {len(rows)} examples ({share:.0%}) are longer "
                    f"than data.max_length={max_length} and dropped"
                )
            elif rows.n_dropped:
                say(
                    f"{name}/{split}: {rows.n_dropped} of {len(rows)} examples are longer than "
                    f"data.max_length={max_length} and dropped"
                )


def _each_task(
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


@dataclass(frozen=True)
class _Corpora:
    """Released files on one side, a cache of their rows on the other."""

    cards: dict[str, TaskCard]
    root: Path
    cache: Path
    config: DataConfig
    layout: "Layout"
    digests: FileDigests
    say: Callable[[str], None]

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
        return cache_key(card, split, self.root, self.layout, length, limit, self.digests)

    def key(self, task: str, splits: Sequence[str], keys: dict[str, str]) -> None:
        """Add the keys of a task's splits. Files are read where their digests are not known."""
        for split in splits:
            self.check_split(task, split)
            keys[split] = self.key_of(task, split)

    def check_split(self, task: str, split: str) -> None:
        card = self.cards[task]
        if split not in card.splits:
            raise UserError(f"task {task}: its card names no split {split!r} ({card.path})")

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
                if is_whole(self.folder(task, split, key), f"task {task}: split {split}", damage_of_rows, self.say):
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
                    keys.update(_build(card, group, self, known))
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

    def open(self, task: str, split: str, key: str | None, rank: int) -> Split:
        """The rows of a split; ranks other than 0 wait for them."""
        from datasets import Dataset

        what = f"task {task}: split {split}"
        if key is None:
            raise UserError(f"{what}: {FAILED}")
        final = self.folder(task, split, key)
        if rank != 0:
            await_build(final, rank, what, damage_of_rows)
        return Split(Dataset.from_file(str(final / ROWS)), final.name)


def _build(card: TaskCard, splits: Sequence[str], corpora: _Corpora, known: Mapping[str, str]) -> dict[str, str]:
    """Write the rows of splits that are read from the same files. -> their keys, of which some were known."""
    texts, keys = TokenisedTexts(corpora.layout), {}
    with contextlib.ExitStack() as stack:
        writers: dict[str, RowWriter] = {}
        for split in splits:
            corpora.cache.mkdir(parents=True, exist_ok=True, mode=0o700)
            place, limit = corpora.place(card.name, split), corpora.limit(split)
            writers[split] = RowWriter(place, card, texts, corpora.config.max_length, limit)
            stack.callback(writers[split].close)
        with watching_files(corpora.digests.watch):
            for split, example in stream_splits(card, corpora.root, splits):
                writers[split].add(example)
        for split, writer in writers.items():
            writer.finish()
            keys[split] = known.get(split) or corpora.key_of(card.name, split)
            writer.publish(corpora.folder(card.name, split, keys[split]))
    return keys


def is_tokenised(tasks: Mapping[str, Sequence[str]], config: DataConfig, layout: "Layout") -> bool:
    """Whether all splits are in the cache already. Nothing is written; files are read only where rows of their split
    are there and their digests are not.

    Raises:
        UserError, ReadError, CardError, KeyError, OSError: the corpora, or the tasks' cards, are not there.
    """
    cards, root, cache = load_cards(config), expand(config.root), expand(config.cache)
    corpora = _Corpora(cards, root, cache, config, layout, FileDigests(cache), print)
    for task, splits in tasks.items():
        for split in splits:
            if not corpora.was_built(task, split):
                return False
            if not corpora.folder(task, split, corpora.key_of(task, split)).is_dir():
                return False
    return True


def data_fingerprint(tasks: dict[str, TaskData]) -> str:
    """Hash of the tokenised rows a run trains on; the same wherever the cache lies and whenever it was built."""
    keys = [
        (name, split, rows.key) for name, data in sorted(tasks.items()) for split, rows in sorted(data.splits.items())
    ]
    return hashlib.sha256(json.dumps(keys).encode()).hexdigest()
