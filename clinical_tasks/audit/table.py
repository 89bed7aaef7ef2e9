"""What `tasks check` found, for people: a table of all tasks, then each task's particulars, then the overlaps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from clinical_tasks.audit.overlap import Overlap
from strict_yaml import counted

if TYPE_CHECKING:
    from clinical_tasks.audit.check import TaskCheck

# The first of the columns that are empty where no tokens were counted.
_TOKEN_COLUMNS = 9


def format_checks(checks: Sequence[TaskCheck], overlaps: Sequence[Overlap] | None = None) -> str:
    """The whole text; `overlaps` None: they were not looked for."""
    header = (
        "task",
        "type",
        "status",
        "train",
        "validation",
        "test",
        "mismatches",
        "metric",
        "ceiling",
        "tokens p50/p90/p99/max",
        "dropped",
    )
    lines = _aligned(header, [_row(check) for check in checks])
    for check in checks:
        if check.status != "absent":
            lines += ["", f"{check.name}: {counted(len(check.found), 'file')}", *_indented(_particulars(check))]
    if overlaps is not None:
        lines += ["", "overlap of test with training documents (docs/reference/data.md says how it is found):"]
        lines += _indented([overlap.line() for overlap in overlaps]) or ["  none"]
    return "\n".join(lines)


def _aligned(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of equally wide columns. The columns of tokens are left out where no task has any."""
    lines = [""] * (len(rows) + 1)
    for column, name in enumerate(header):
        cells = [row[column] for row in rows]
        if column >= _TOKEN_COLUMNS and set(cells) <= {"-"}:
            continue
        width = max(map(len, [name, *cells]))
        for number, cell in enumerate([name, *cells]):
            lines[number] += cell.ljust(width) + "  "
    return [line.rstrip() for line in lines]


def _indented(lines: Sequence[str]) -> list[str]:
    return [f"  {line}" for line in lines]


def _row(check: TaskCheck) -> tuple[str, ...]:
    counts = [str(check.counts.get(split, "-")) for split in ("train", "validation", "test")]
    mismatches = ceiling = tokens = dropped = "-"
    if check.found and check.type in ("ner", "re"):
        mismatches = str(check.offset_mismatches)
    if check.ceiling is not None:
        ceiling = f"{check.ceiling:.4f}"
    if check.tokens:
        tokens = "/".join(map(str, check.tokens["input"].values()))
    if check.fates:
        dropped = str(sum(fate["dropped"] for fate in check.fates.values()))
    return check.name, check.type, check.status, *counts, mismatches, check.metric, ceiling, tokens, dropped


def _particulars(check: TaskCheck) -> list[str]:
    lines = []
    if check.missing:
        lines.append("missing: " + ", ".join(check.missing))
    for split, units in check.published.items():
        for unit, number in units.items():
            if check.released.get(split, {}).get(unit) == number:
                lines.append(f"{split}: {number} {unit}, as published")
    if check.labels:
        lines.append("labels: " + _balance(check.labels))
    if check.ignored_labels:
        lines.append("not in the card's labels, ignored: " + _balance(check.ignored_labels))
    if check.left_out:
        lines.append("left out: " + ", ".join(f"{number} {kind}" for kind, number in sorted(check.left_out.items())))
    for name, percentiles in check.tokens.items():
        lines.append(f"{name} tokens: " + ", ".join(f"{p} {number}" for p, number in percentiles.items()))
    for split, fates in check.fates.items():
        told = [f"{number} {fate}" for fate, number in fates.items() if number and fate != "pieces"]
        if fates["divided"]:
            told.append(f"{counted(fates['pieces'], 'piece')} in all")
        if told:
            lines.append(f"{split}: " + ", ".join(told))
    return lines + [f"note: {note}" for note in check.notes] + [f"problem: {problem}" for problem in check.problems]


def _balance(labels: dict[str, int]) -> str:
    total = sum(labels.values())
    ordered = sorted(labels.items(), key=lambda item: -item[1])
    return ", ".join(f"{label} {count} ({count / total:.0%})" for label, count in ordered)
