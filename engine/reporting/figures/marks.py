"""The smallest parts of a chart: what a series looks like, its marks, words at a place."""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from engine.reporting.data import ORDER

LETTER = 6.1  # points of a letter at font size 11, about
COLOURS = 8


@dataclass(frozen=True)
class Style:
    """colour: number of a CSS variable --c0..--c7. mark: 0..5. dashed: of a variant."""

    colour: int
    mark: int
    dashed: bool = False

    @property
    def dash(self) -> str:
        """The attribute of a path, with a space before it."""
        return ' stroke-dasharray="4 3"' if self.dashed else ""


@dataclass(frozen=True)
class Point:
    """low, high: its interval, if any. told: what hovering says. ringed: one that was chosen."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None
    told: str = ""
    label: str = ""
    ringed: bool = False


@dataclass(frozen=True)
class Series:
    """level: its one point is drawn as a line across: what nothing on the x axis changes."""

    name: str
    style: Style
    points: Sequence[Point]
    level: bool = False


def style_of(name: str, names: Sequence[str]) -> Style:
    """The same method looks the same in every chart; variants (``METHOD@NAME``) and unknown names take what is left."""
    if name in ORDER:
        return Style(ORDER.index(name), ORDER.index(name) % 6)
    others = [n for n in names if n not in ORDER]
    place = others.index(name) if name in others else 0
    return Style((len(ORDER) + place) % COLOURS, (place + 1) % 6, True)


def mark(x: float, y: float, style: Style, size: float = 4, told: str = "") -> Markup:
    """A circle, square, triangle, diamond, downward triangle or cross."""
    s, a = size, size - 1.3
    shapes = (
        f"M{x - s:.1f} {y:.1f}a{s} {s} 0 1 0 {2 * s} 0a{s} {s} 0 1 0 {-2 * s} 0Z",
        f"M{x - s:.1f} {y - s:.1f}h{2 * s}v{2 * s}h{-2 * s}Z",
        f"M{x:.1f} {y - s - 1:.1f}L{x + s + 0.5:.1f} {y + s:.1f}H{x - s - 0.5:.1f}Z",
        f"M{x:.1f} {y - s - 1.5:.1f}L{x + s + 1.5:.1f} {y:.1f}L{x:.1f} {y + s + 1.5:.1f}L{x - s - 1.5:.1f} {y:.1f}Z",
        f"M{x:.1f} {y + s + 1:.1f}L{x + s + 0.5:.1f} {y - s:.1f}H{x - s - 0.5:.1f}Z",
        f"M{x - s:.1f} {y - 1.3:.1f}h{a:.1f}v{-a:.1f}h2.6v{a:.1f}h{a:.1f}v2.6h{-a:.1f}v{a:.1f}h-2.6v{-a:.1f}h{-a:.1f}Z",
    )
    head = Markup(f'<path d="{shapes[style.mark % len(shapes)]}" class="f{style.colour}"')
    if not told:
        return head + Markup("/>")
    return head + Markup("><title>{}</title></path>").format(told)


def key(style: Style, line: bool = True) -> Markup:
    """What stands before a name in a legend: a mark, on a piece of its line or without one."""
    wide = 26 if line else 14
    drawn = Markup(f'<svg class="key" width="{wide}" height="14" viewBox="0 0 {wide} 14" aria-hidden="true">')
    if line:
        drawn += Markup(f'<path d="M1 7H25" class="l{style.colour}"{style.dash}/>')
    return drawn + mark(wide / 2, y=7, style=style, size=3.5) + Markup("</svg>")


def text(x: float, y: float, words: str, anchor: str = "middle", kind: str = "", told: str = "") -> Markup:
    """Words at a place. kind: their CSS class. told: what hovering says."""
    classed = f' class="{kind}"' if kind else ""
    out = Markup(f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{classed}>') + escape(words)
    if told:
        out += Markup("<title>{}</title>").format(told)
    return out + Markup("</text>")


def cut(words: str, most: int) -> str:
    """At most so many letters."""
    return words if len(words) <= most else words[: max(most - 1, 1)] + "…"
