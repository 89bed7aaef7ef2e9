"""Is the data there, and is it what the cards say? Counts and file names only, never content. Documents are read
one at a time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from clinical_tasks.audit.token_counts import TokenCounts, TokenLimits
from clinical_tasks.corpus import holder, is_labelled, split_files, stream_documents
from clinical_tasks.schema import Document, Example, ReadError, TaskCard
from clinical_tasks.scoring import round_trip
from clinical_tasks.text_pairs import make_example
from strict_yaml import counted

# ROUGE takes about 10 ms a pair and a written reference always comes back as itself: a sample of summaries is enough.
_SUMMARY_SAMPLE = 200
# What the round trip holds at most, in characters of input, of each split: every released annotated corpus of the table
# whole.
_ROUND_TRIP_CHARACTERS = 4_000_000
# How many places of offset mismatches are named.
_NAMED = 5
# Below this the gold answers themselves lose score, which a card has to explain.
CEILING = 0.99


@dataclass
class TaskCheck:
    """What was found for one task. `status` is ok, absent (none of its files are there) or problems."""

    name: str
    type: str
    metric: str
    found: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    released: dict[str, dict[str, int]] = field(default_factory=dict)
    published: dict[str, dict[str, int]] = field(default_factory=dict)
    offset_mismatches: int = 0
    mentions: int = 0
    """Of all labels; with `offset_mismatches`, those of them that do not hold the words that they quote."""
    mismatch_places: list[str] = field(default_factory=list)
    """`FILE:LINE` of the first mismatches."""
    ceiling: float | None = None
    labels: dict[str, int] = field(default_factory=dict)
    ignored_labels: dict[str, int] = field(default_factory=dict)
    left_out: dict[str, int] = field(default_factory=dict)
    """Kind -> number of what readers met and passed over, rows whose label the card ignores included."""
    tokens: dict[str, dict[str, int]] = field(default_factory=dict)
    """`input`, `answer` -> p50, p90, p99, max of whole examples, where a tokenizer was given."""
    fates: dict[str, dict[str, int]] = field(default_factory=dict)
    """Split -> divided, pieces, dropped, relations cut, answers cut at the longest sample and answer allowed."""
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def status(self) -> str:
        """One word for the table."""
        if self.problems:
            return "problems"
        return "ok" if self.found else "absent"


def check_tasks(
    cards: Mapping[str, TaskCard] | Iterable[TaskCard],
    data_root: Path | str,
    required: Collection[str] = (),
    limits: TokenLimits | None = None,
) -> list[TaskCheck]:
    """Check every card against the data root. A task whose files are all absent is no problem unless it is in
    `required`.

    `limits`: count tokens too, and what would be divided, dropped and cut.
    """
    every = cards.values() if isinstance(cards, Mapping) else cards
    return [_check_task(card, root=Path(data_root), required=card.name in required, limits=limits) for card in every]


class _Sample:
    """The examples of one split that the round trip is tried on: its first ones, up to so many characters."""

    def __init__(self, most: int):
        self.examples: list[Example] = []
        self.seen = 0
        self._most, self._room = most, _ROUND_TRIP_CHARACTERS

    def offer(self, example: Example) -> None:
        self.seen += 1
        if len(self.examples) < self._most and self._room > 0:
            self.examples.append(example)
            self._room -= len(example.input_text)


def _check_task(card: TaskCard, root: Path, required: bool, limits: TokenLimits | None) -> TaskCheck:
    check = TaskCheck(card.name, card.type, card.metric, published=card.published_counts())
    folder = root / card.folder
    try:
        files = {split: split_files(card, root, split) for split in card.splits}
    except ReadError as error:
        check.problems.append(str(error))
        return check
    found: set[str] = set()
    missing: set[str] = set()
    for resolved in files.values():
        found.update(path.relative_to(folder).as_posix() for path in resolved.found)
        missing.update(resolved.missing)
    check.found, check.missing = sorted(found), sorted(missing)
    if check.missing and (check.found or required):
        check.problems.append(
            f"not found in {folder}: {', '.join(check.missing)}. Fix: put the released files there under these names"
        )
    if not check.found:
        return check
    tokens = TokenCounts(card, limits) if limits else None
    summaries = card.type == "summarization"
    kept: list[Example] = []
    seen = 0
    for split, resolved in files.items():
        if not resolved.missing:
            # A summary always comes back as itself; the first split's are enough.
            sample = _Sample(max(0, _SUMMARY_SAMPLE - len(kept)) if summaries else 2**63)
            try:
                _check_split(check, card, root, split, sample, tokens)
            except ReadError as error:
                # A split held out of a broken one repeats its error.
                if str(error) not in check.problems:
                    check.problems.append(str(error))
                continue
            kept += sample.examples
            seen += sample.seen
    if check.offset_mismatches:
        _tell_mismatches(check)
    if tokens:
        check.tokens = tokens.percentiles()
        check.fates = {split: dict(fates) for split, fates in tokens.fates.items()}
    if kept:
        check.ceiling = round_trip(card, kept)[card.metric]
        if len(kept) < seen and not summaries:
            check.notes.append(f"round trip on {len(kept)} of {seen} examples, the first of each split")
        if check.ceiling < CEILING:
            check.notes.append(f"round trip {check.ceiling:.4f} is below {CEILING}: explain it in the card's protocol")
    return check


def _check_split(
    check: TaskCheck, card: TaskCard, root: Path, split: str, sample: _Sample, tokens: TokenCounts | None
) -> None:
    """Adds to `check` once the whole split has been read: a file that breaks off leaves no half counts."""
    parent = card.splits[split].hold_out_from
    released, labels, left_out = _no_counts(card), Counter[str](), Counter[str]()
    mentions = examples = 0
    mismatches: list[str] = []
    for document in stream_documents(card, root, split, as_released=True):
        if not parent:
            _count_released(card, document, released)
            mentions += len(document.mentions)
            mismatches += document.mismatches
            left_out.update(document.left_out)
            check.notes += [note for note in document.notes if note not in check.notes]
            if not is_labelled(card, document):
                left_out["rows whose label the card ignores"] += 1
            if holder(card, split, document) != split:
                continue
        if is_labelled(card, document):
            example = make_example(card, document)
            examples += 1
            labels.update(_labels(card, document, example))
            sample.offer(example)
            if tokens:
                tokens.add(split, example)
    check.counts[split] = examples
    if not parent:
        check.released[split] = released
        check.mentions += mentions
        check.offset_mismatches += len(mismatches)
        check.mismatch_places += mismatches[: _NAMED - len(check.mismatch_places)]
        check.left_out = dict(Counter(check.left_out) + left_out)
        _compare(check, split)
    if not examples:
        check.problems.append(f"split {split} is empty. Fix: correct splits.{split} in {card.path}")
    for label, count in labels.items():
        # The official label is in the files and the card, so it may be shown; texts may not.
        ignored = card.type in ("ner", "re") and not card.keeps(label)
        into = check.ignored_labels if ignored else check.labels
        into[label] = into.get(label, 0) + count


def _tell_mismatches(check: TaskCheck) -> None:
    """Where offsets do not hold the quoted words: a note, or a problem if that is most of a task's annotations."""
    places = ", ".join(check.mismatch_places)
    if check.offset_mismatches > len(check.mismatch_places):
        places += ", …"
    counts = f"{check.offset_mismatches} of {check.mentions} annotations"
    told = f"offsets and quoted words disagree, or no words are quoted: {counts} ({places})"
    if 2 * check.offset_mismatches > check.mentions:
        fix = "count characters, not bytes, of the very files that were annotated, line ends included"
        check.problems.append(f"{told}. Fix: {fix}")
    else:
        check.notes.append(told)


def _no_counts(card: TaskCard) -> dict[str, int]:
    if card.type in ("ner", "re"):
        return {"documents": 0, "mentions": 0, "relations": 0}
    return {"documents": 0}


def _count_released(card: TaskCard, document: Document, counts: dict[str, int]) -> None:
    counts["documents"] += 1
    if card.type in ("ner", "re"):
        counts["mentions"] += sum(card.type == "re" or card.keeps(mention.type) for mention in document.mentions)
        counts["relations"] += sum(card.keeps(relation.type) for relation in document.relations)


def _compare(check: TaskCheck, split: str) -> None:
    for unit, published in check.published.get(split, {}).items():
        found = check.released[split].get(unit)
        if found is not None and found != published:
            here = counted(found, unit.removesuffix("s"))
            check.problems.append(
                f"split {split} has {here}, but {published} are published. Fix: compare the files with the release"
            )


def _labels(card: TaskCard, document: Document, example: Example) -> Iterable[str]:
    if card.type == "ner":
        return (mention.type for mention in document.mentions)
    if card.type == "re":
        return (relation.type for relation in document.relations)
    return [example.gold["label"]] if "label" in example.gold else []
