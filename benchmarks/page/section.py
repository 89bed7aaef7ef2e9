"""What a section of docs/evidence/performance.md is made of."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Ratio:
    """The peer's seconds (or bytes) over ours, in a regime."""

    where: str
    value: float
    detail: str = ""


@dataclass
class Section:
    """One benchmark. ``lines``: its table and what must be known to read it."""

    title: str
    command: str
    lines: list[str]
    ratios: list[Ratio] = field(default_factory=list)


Content = Any  # of one results file


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [_line(row) for row in rows]
    return [_line(head), "|" + "---|" * len(head), *lines]


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def compared(peer: float, own: float, digits: int = 2) -> str:
    """Two figures side by side, the peer's first."""
    return f"{peer:.{digits}f} / {own:.{digits}f}"


def spread(middle: float, low: float, high: float, digits: int = 2) -> str:
    """A median and the range around it."""
    return f"{middle:.{digits}f} ({low:.{digits}f}-{high:.{digits}f})"


def median_seconds(method: dict[str, Any]) -> str:
    return f"{method['step_seconds']['median']:.2f}" if method else "-"


def gigabytes(size: int | None) -> str:
    return "-" if not size else f"{size / 1e9:.2f} GB"
