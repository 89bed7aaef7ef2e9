"""Is the data there, and is it what the cards say? Counts and file names only, never content."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from clinical_tasks.card import TaskCard
from clinical_tasks.documents import Document, Example
from clinical_tasks.errors import ReadError
from clinical_tasks.scoring import round_trip
from clinical_tasks.serialise import make_example
from clinical_tasks.splits import holder, is_labelled, read_documents, split_files

# ROUGE takes about 10 ms a pair and a written reference always comes back as itself: a sample of summaries is enough.
_SUMMARY_SAMPLE = 200
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
    ceiling: float | None = None
    labels: dict[str, int] = field(default_factory=dict)
    ignored_labels: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def status(self) -> str:
        """One word for the table."""
        return "problems" if self.problems else "ok" if self.found else "absent"


def check_tasks(
    cards: Mapping[str, TaskCard] | Iterable[TaskCard], data_root: Path | str, required: Collection[str] = ()
) -> list[TaskCheck]:
    """Check every card against the data root. A task whose files are all absent is no problem unless it is in `required`."""
    every = cards.values() if isinstance(cards, Mapping) else cards
    return [_check_task(card, Path(data_root), card.name in required) for card in every]


def _check_task(card: TaskCard, root: Path, required: bool) -> TaskCheck:
    check = TaskCheck(card.name, card.type, card.metric, published=card.published)
    files = {split: split_files(card, root, split) for split in card.splits}
    folder = root / card.folder
    check.found = sorted({path.relative_to(folder).as_posix() for resolved in files.values() for path in resolved.found})
    check.missing = sorted({name for resolved in files.values() for name in resolved.missing})
    if check.missing and (check.found or required):
        check.problems.append(f"not found in {folder}: {', '.join(check.missing)}. Fix: put the released files there under these names")
    if not check.found:
        return check
    examples: list[Example] = []
    for split, resolved in files.items():
        if not resolved.missing:
            try:
                examples += _check_split(check, card, root, split)
            except ReadError as error:
                # A split held out of a broken one repeats its error.
                if str(error) not in check.problems:
                    check.problems.append(str(error))
    if examples:
        sample = examples[:_SUMMARY_SAMPLE] if card.type == "summarization" else examples
        check.ceiling = round_trip(card, sample)[card.metric]
        if check.ceiling < CEILING:
            check.notes.append(f"round trip {check.ceiling:.4f} is below {CEILING}: explain it in the card's protocol")
    return check


def _check_split(check: TaskCheck, card: TaskCard, root: Path, split: str) -> list[Example]:
    documents = read_documents(card, root, split, as_released=True)
    if not card.splits[split].hold_out_from:
        check.released[split] = _released_counts(card, documents)
        check.offset_mismatches += sum(len(document.mismatches) for document in documents)
        _compare(check, split)
    kept = [document for document in documents if card.splits[split].hold_out_from or holder(card, split, document) == split]
    examples = [make_example(card, document) for document in kept if is_labelled(card, document)]
    check.counts[split] = len(examples)
    if not examples:
        check.problems.append(f"split {split} is empty. Fix: correct splits.{split} in {card.path}")
    for label, count in _label_counts(card, kept, examples).items():
        # The official label is in the files and the card, so it may be shown; texts may not.
        into = check.labels if card.type not in ("ner", "re") or card.keeps(label) else check.ignored_labels
        into[label] = into.get(label, 0) + count
    return examples


def _released_counts(card: TaskCard, documents: list[Document]) -> dict[str, int]:
    counts = {"documents": len(documents)}
    if card.type in ("ner", "re"):
        counts["mentions"] = sum(card.type == "re" or card.keeps(mention.type) for document in documents for mention in document.mentions)
        counts["relations"] = sum(card.keeps(relation.type) for document in documents for relation in document.relations)
    return counts


def _compare(check: TaskCheck, split: str) -> None:
    for unit, published in check.published.get(split, {}).items():
        found = check.released[split].get(unit)
        if found is not None and found != published:
            check.problems.append(f"split {split} has {found} {unit}, published are {published}. Fix: compare the files with the release")


def _label_counts(card: TaskCard, documents: list[Document], examples: list[Example]) -> Counter[str]:
    if card.type == "ner":
        return Counter(mention.type for document in documents for mention in document.mentions)
    if card.type == "re":
        return Counter(relation.type for document in documents for relation in document.relations)
    return Counter(example.gold["label"] for example in examples if "label" in example.gold)


def format_checks(checks: list[TaskCheck]) -> str:
    """A table of all tasks, and below it what is wrong with each."""
    header = ("task", "type", "status", "train", "validation", "test", "mismatches", "metric", "ceiling")
    rows = [header, *(_row(check) for check in checks)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    for check in checks:
        if check.status == "absent":
            continue
        lines.append("")
        lines.append(f"{check.name}: {len(check.found)} files")
        if check.labels:
            lines.append("  labels: " + _balance(check.labels))
        if check.ignored_labels:
            lines.append("  not in the card's labels, ignored: " + _balance(check.ignored_labels))
        lines += [f"  note: {note}" for note in check.notes]
        lines += [f"  problem: {problem}" for problem in check.problems]
    return "\n".join(lines)


def _row(check: TaskCheck) -> tuple[str, ...]:
    counts = [str(check.counts.get(split, "-")) for split in ("train", "validation", "test")]
    ceiling = f"{check.ceiling:.4f}" if check.ceiling is not None else "-"
    mismatches = str(check.offset_mismatches) if check.found and check.type in ("ner", "re") else "-"
    return check.name, check.type, check.status, *counts, mismatches, check.metric, ceiling


def _balance(labels: dict[str, int]) -> str:
    total = sum(labels.values())
    return ", ".join(f"{label} {count} ({count / total:.0%})" for label, count in sorted(labels.items(), key=lambda item: -item[1]))
