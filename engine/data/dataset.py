"""Released files -> examples -> token rows, once, in an Arrow cache of the run's own.

Happens before the process group starts: a long tokenisation must not run into the group's timeout. Rank 0 writes, the
others wait (token_cache.py).
"""

import hashlib
import heapq
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import clinical_tasks
from clinical_tasks import Example, TaskCard
from clinical_tasks.corpus import code_versions, split_files as files_of, stream_split
from clinical_tasks.readers import find_files, is_file, open_bytes
from engine.config import DataConfig, expand
from engine.core import UserError, new_partial, publish, remove
from engine.data.token_cache import ROWS, build_once, damage_of_rows, note_checksum

if TYPE_CHECKING:  # cards and corpora can be looked at without torch
    from backbones import Layout

CACHE_FORMAT = "3"  # of the rows: which there are of an example, and how they are written
LOSS_WARNING = 0.01  # a task that loses more examples than this to max_length is warned about
WRITE_ROWS, WRITE_BYTES = 1000, 1 << 21


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
    out: dict[str, TaskData] = {}
    for task, splits in tasks.items():
        try:
            found = {s: _split(cards[task], s, root, cache, config, layout, rank, say) for s in splits}
            out[task] = TaskData(cards[task], found)
        except (clinical_tasks.ReadError, clinical_tasks.CardError) as error:
            problems += [f"task {task}: {line}" for line in (getattr(error, "problems", None) or [str(error)])]
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


def _split(
    card: TaskCard,
    split: str,
    root: Path,
    cache: Path,
    config: DataConfig,
    layout: "Layout",
    rank: int,
    say: Callable[[str], None],
) -> Split:
    from datasets import Dataset

    if split not in card.splits:
        raise UserError(f"task {card.name}: its card names no split {split!r} ({card.path})")
    limit = {"train": config.max_train, "validation": config.max_validation, "test": config.max_test}[split]
    final = cache / f"{card.name}-{split}-{cache_key(card, split, root, layout, config.max_length, limit)}"
    build_once(
        final,
        rank,
        what=f"task {card.name}: split {split}",
        damage=damage_of_rows,
        say=say,
        build=lambda: _build(card, split, root, config, limit, layout, final),
    )
    return Split(Dataset.from_file(str(final / ROWS)), final.name)


def _build(
    card: TaskCard, split: str, root: Path, config: DataConfig, limit: int, layout: "Layout", final: Path
) -> None:
    from datasets import Features, Sequence, Value
    from datasets.arrow_writer import ArrowWriter

    def fits(input_text: str, answer_text: str) -> bool:
        return len(layout.context_ids(input_text)) + len(layout.answer_ids(answer_text)) <= config.max_length

    def rows() -> Iterator[dict[str, Any]]:
        for whole in _subset(stream_split(card, root, split), limit):
            for example in clinical_tasks.split_long(whole, card, fits):
                context, answer = layout.context_ids(example.input_text), layout.answer_ids(example.answer_text)
                longest = max([len(answer), *(len(layout.answer_ids(o)) for o in example.options)])
                kept = len(context) + longest <= config.max_length
                yield {
                    "context_ids": context,
                    "answer_ids": answer,
                    "example": json.dumps(asdict(example)),
                    "kept": kept,
                }

    features = Features(
        {
            "context_ids": Sequence(Value("int32")),
            "answer_ids": Sequence(Value("int32")),
            "example": Value("string"),
            "kept": Value("bool"),
        }
    )
    partial = new_partial(final, folder=True)
    try:
        # row by row to the disk: what waits in memory is bounded in bytes, since a row may be a whole record or a
        # question
        (partial / ROWS).touch(0o600)
        with ArrowWriter(path=str(partial / ROWS), features=features, writer_batch_size=WRITE_ROWS) as writer:
            waiting = 0
            for row in rows():
                writer.write(row)
                waiting += len(row["example"]) + 36 * (
                    len(row["context_ids"]) + len(row["answer_ids"])
                )  # a list's ints
                if waiting > WRITE_BYTES:
                    writer.write_examples_on_file()
                    waiting = 0
            writer.finalize()
        note_checksum(partial, final.name)
        try:
            publish(partial, final)
        except OSError:
            if not final.is_dir():
                raise
    finally:
        remove(partial)


def _subset(examples: Iterable[Example], limit: int) -> Iterable[Example]:
    """At most ``limit`` examples, the same ones for every model: chosen by hash, kept in order. Holds no more than
    these.
    """
    if not limit:
        return examples
    numbered = ((hashlib.sha256(f"{e.task}|{e.example_id}".encode()).digest(), i, e) for i, e in enumerate(examples))
    return [e for _, _, e in sorted(heapq.nsmallest(limit, numbered, key=lambda row: row[:2]), key=lambda row: row[1])]


def cache_key(card: TaskCard, split: str, root: Path, layout: "Layout", max_length: int, limit: int) -> str:
    """Hash of all that the rows depend on: files, card, versions of the code, tokenizer, template, lengths."""
    digest = hashlib.sha256(
        f"{CACHE_FORMAT}|{card.fingerprint()}|{split}|{layout.fingerprint()}|{max_length}|{limit}".encode()
    )
    digest.update(code_and_files(card, split, root))
    return digest.hexdigest()[:24]


def code_and_files(card: TaskCard, split: str, root: Path) -> bytes:
    """Hash of the versions of the code and of the released files that decide a split's examples."""
    digest = hashlib.sha256(code_versions(card).encode())
    for path in source_files(card, split, root):
        with open_bytes(path) as stream:
            digest.update(path.name.encode() + hashlib.file_digest(stream, "sha256").digest())  # type: ignore[arg-type]
    return digest.digest()


def source_files(card: TaskCard, split: str, root: Path) -> list[Path]:
    """The released files that decide a split's examples, those it is held out of or loses its hold-outs to included."""
    related = [
        name
        for name, spec in card.splits.items()
        if name in (split, card.splits[split].hold_out_from) or spec.hold_out_from == split
    ]
    found = {path for name in related for path in files_of(card, root, name).found}
    ids = {ids for name in related for ids in (card.splits[name].ids_from, card.splits[name].ids_not_in) if ids}
    found |= {path for name in ids for path in find_files(root / card.folder, name)}
    if card.reader == "brat":  # either half of a pair may be the one the card names
        found |= {half for path in found for half in (path.with_suffix(".txt"), path.with_suffix(".ann"))}
    return sorted(path for path in found if is_file(path))


def data_fingerprint(tasks: dict[str, TaskData]) -> str:
    """Hash of the tokenised rows a run trains on; the same wherever the cache lies and whenever it was built."""
    keys = [
        (name, split, rows.key) for name, data in sorted(tasks.items()) for split, rows in sorted(data.splits.items())
    ]
    return hashlib.sha256(json.dumps(keys).encode()).hexdigest()
