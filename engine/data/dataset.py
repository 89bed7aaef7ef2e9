"""Released files -> examples -> token rows, once, in an Arrow cache of the run's own.

Happens before the process group starts: a long tokenisation must not run into the group's timeout. Rank 0 reads the
corpora and writes, the others wait (token_cache.py). The first time a file is read, it is hashed as it is read, and all
splits of a task are made from one reading.
"""

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from clinical_tasks import Example, TaskCard
from engine.config import DataConfig, expand
from engine.core import UserError
from engine.data.cards import load_cards, unknown_task
from engine.data.corpora import Corpora, each_task
from engine.data.file_digests import FileDigests
from engine.data.sample import Sample
from engine.data.token_cache import FAILED, ROWS, await_build, damage_of_rows, shared_keys

if TYPE_CHECKING:  # cards and corpora can be looked at without torch
    from backbones import Layout

LOSS_WARNING = 0.01  # a task that loses more examples than this to max_length is warned about


class Split:
    """One split of one task. Rows longer than ``max_length`` keep their example (evaluation must count them) but are no
    samples.

    Args:
        rows: Arrow dataset with columns context_ids, answer_ids, example (JSON), fits (in max_length).
        key: hash of everything the rows were made from.
    """

    def __init__(self, rows: Any, key: str = ""):
        self.rows, self.key = rows, key
        fits = rows["fits"][:] if len(rows) else []
        self.sample_indices = [index for index, row_fits in enumerate(fits) if row_fits]
        self.n_dropped = len(rows) - len(self.sample_indices)
        self.n_excluded = 0

    def __len__(self) -> int:
        return len(self.rows)

    def without(self, documents: Collection[str]) -> "Split":
        """The split without the samples of these documents, under another key; ``n_excluded`` counts them."""
        out = Split(self.rows)
        out.sample_indices = [i for i in self.sample_indices if self.example(i).document not in documents]
        out.n_excluded = len(self.sample_indices) - len(out.sample_indices)
        if not out.n_excluded:
            return self
        out.key = hashlib.sha256(json.dumps([self.key, out.sample_indices]).encode()).hexdigest()
        return out

    def labels(self) -> list[str] | None:
        """The gold label of every sample of a choice task; None where answers are no labels."""
        wanted, out, place = set(self.sample_indices), [], 0
        for batch in self.rows.select_columns(["example"]).iter(256):
            for text in batch["example"]:
                if place in wanted:
                    label = json.loads(text).get("gold", {}).get("label")
                    if label is None:
                        return None
                    out.append(str(label))
                place += 1
        return out

    def sample(self, index: int, row: int = 0) -> Sample:
        """The sample at a place of the split, for a row of the bank."""
        content = self.rows[index]
        return Sample(content["context_ids"], content["answer_ids"], row, index)

    def answer_lengths(self) -> list[int]:
        """Answer tokens of every row."""
        return self._lengths("answer_ids")

    def context_lengths(self) -> list[int]:
        """Context tokens of every row."""
        return self._lengths("context_ids")

    def _lengths(self, column: str) -> list[int]:
        import pyarrow.compute

        lengths: list[int] = pyarrow.compute.list_value_length(self.rows.data.column(column)).to_pylist()
        return lengths

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


def prepare(
    tasks: dict[str, Sequence[str]], config: DataConfig, layout: "Layout", rank: int = 0, print_rank0=print
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
        problems.append(f"data.root: {root} is not a folder")
    problems += [unknown_task(task, cards) for task in tasks if task not in cards]
    if problems:
        raise UserError(problems)
    cache = expand(config.cache)
    if cache.exists() and not cache.is_dir():
        raise UserError(f"data.cache: {cache} is a file; name a folder")
    source = Corpora(cards, root, cache, config, layout, FileDigests(cache), print_rank0)
    failed: dict[str, list[str]] = {}
    make = source.build if rank == 0 else source.key
    try:
        keys = shared_keys(cache, request=source.request(tasks), rank=rank, find=lambda: each_task(tasks, make, failed))
    finally:
        if rank == 0:
            source.digests.save()
    out: dict[str, TaskData] = {}
    for task, splits in tasks.items():
        try:
            if task in failed:
                raise UserError(failed[task])
            out[task] = TaskData(cards[task], {s: _open(source, task, s, keys[task].get(s), rank) for s in splits})
        except UserError as error:
            problems += error.problems
    for task, data in out.items():
        problems += [
            f"task {task}: split {name}: no example fits data.max_length={config.max_length}"
            for name, s in data.splits.items()
            if not s.sample_indices
        ]
    if problems:
        raise UserError(problems)
    if rank == 0:
        _report(out, config.max_length, print_rank0)
    return out


def _report(tasks: dict[str, TaskData], max_length: int, print_rank0) -> None:
    for name, data in tasks.items():
        for split, rows in data.splits.items():
            if rows.n_dropped > LOSS_WARNING * len(rows):
                share = rows.n_dropped / len(rows)
                print_rank0(
                    f"WARNING {name}/{split}: {rows.n_dropped} of {len(rows)} examples ({share:.0%}) are longer "
                    f"than data.max_length={max_length} and dropped"
                )
            elif rows.n_dropped:
                print_rank0(
                    f"{name}/{split}: {rows.n_dropped} of {len(rows)} examples are longer than "
                    f"data.max_length={max_length} and dropped"
                )


def _open(corpora: Corpora, task: str, split: str, key: str | None, rank: int) -> Split:
    """The rows of a split; ranks other than 0 wait for them."""
    from datasets import Dataset

    what = f"task {task}: split {split}"
    if key is None:
        raise UserError(f"{what}: {FAILED}")
    final = corpora.folder(task, split, key)
    if rank != 0:
        await_build(final, rank, what, damage=damage_of_rows)
    return Split(Dataset.from_file(str(final / ROWS)), final.name)


def is_tokenised(tasks: Mapping[str, Sequence[str]], config: DataConfig, layout: "Layout") -> bool:
    """Whether all splits are in the cache already. Nothing is written; files are read only where rows of their split
    are there and their digests are not.

    Raises:
        UserError, ReadError, CardError, KeyError, OSError: the corpora, or the tasks' cards, are not there.
    """
    cards, root, cache = load_cards(config), expand(config.root), expand(config.cache)
    corpora = Corpora(cards, root, cache, config, layout, FileDigests(cache), print)
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
