"""Charts as inline SVG, by plain functions. Colours are the page's CSS variables, so that a chart follows its theme and
prints.

Every chart names itself for screen readers, every mark tells its numbers on hover (``<title>``), and lines differ by
mark and dash as well as by colour. At most 360 points wide: they stand beside one another on a desk and whole on a
phone.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from engine.reporting.data import ORDER

WIDTH, HEIGHT = 340, 230
LEFT, RIGHT, TOP, BOTTOM = 46, 14, 26, 40
LETTER = 6.1  # points of a letter at font size 11, about
COLOURS = 8
Scale = Callable[[float], float]


@dataclass(frozen=True)
class Style:
    """colour: number of a CSS variable --c0..--c7. mark: 0..5. dashed: of a variant."""

    colour: int
    mark: int
    dashed: bool = False


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
    return head + (Markup("><title>{}</title></path>").format(told) if told else Markup("/>"))


def key(style: Style, line: bool = True) -> Markup:
    """What stands before a name in a legend."""
    dash, wide = ' stroke-dasharray="4 3"' if style.dashed else "", 26 if line else 14
    drawn = Markup(f'<path d="M1 7H25" class="l{style.colour}"{dash}/>') if line else Markup("")
    head = Markup(f'<svg class="key" width="{wide}" height="14" viewBox="0 0 {wide} 14" aria-hidden="true">')
    return head + drawn + mark(wide / 2, 7, style, 3.5) + Markup("</svg>")


def lines(
    title: str,
    series: Sequence[Series],
    x_names: Sequence[str] = (),
    x_title: str = "",
    y_title: str = "",
    log_x: bool = False,
    log_y: bool = False,
    joined: bool = True,
    whole_x: bool = False,
    width: int = WIDTH,
) -> Markup:
    """Points joined by lines (or not), with intervals. ``x_names``: x are places 0, 1, … with these names; else
    numbers (``whole_x``: whole ones).
    """
    points = [p for s in series for p in s.points if _drawable(p, log_x, log_y)]
    if not points:
        return Markup("")
    ys = [v for p in points for v in (p.y, p.low, p.high) if v is not None and (v > 0 or not log_y)]
    y_low, y_high = _padded(min(ys), max(ys), log_y)
    x_low, x_high = (
        (-0.3, len(x_names) - 0.7) if x_names else _padded(min(p.x for p in points), max(p.x for p in points), log_x)
    )
    across, up = _scale(x_low, x_high, LEFT, width - RIGHT, log_x), _scale(y_low, y_high, HEIGHT - BOTTOM, TOP, log_y)
    body = Markup("")
    for value in _ticks(y_low, y_high, log_y):
        body += Markup(f'<path d="M{LEFT} {up(value):.1f}H{width - RIGHT}" class="grid"/>') + _text(
            LEFT - 6, up(value) + 4, short(value), "end"
        )
    for value, name in (
        enumerate(x_names) if x_names else ((v, short(v)) for v in _ticks(x_low, x_high, log_x, 6, whole_x))
    ):
        body += Markup(f'<path d="M{across(value):.1f} {HEIGHT - BOTTOM}v4" class="axis"/>') + _text(
            across(value), HEIGHT - BOTTOM + 16, name
        )
    body += Markup(f'<path d="M{LEFT} {HEIGHT - BOTTOM}H{width - RIGHT}" class="axis"/>')
    body += _text((LEFT + width - RIGHT) / 2, HEIGHT - 6, x_title, "middle", "soft")
    marks, taken = Markup(""), []
    for number, one in enumerate(series):
        # named places are shared by all series: their intervals stand side by side, not upon each other
        aside = (number - (len(series) - 1) / 2) * min(5.0, 22 / len(series)) if x_names and not one.level else 0.0
        placed = [(p, across(p.x) + aside, up(p.y)) for p in one.points if _drawable(p, log_x, log_y)]
        body += _strokes(one, placed, up, joined, width)
        marks += _marks(one, placed, joined)
        taken += [(x, y) for _, x, y in placed]
    for one in series:
        for p in one.points:
            if p.label and _drawable(p, log_x, log_y):
                marks += _label(p.label, across(p.x), up(p.y), taken, width)
    return _chart(title, body + marks, width, HEIGHT, y_title)


def _strokes(one: Series, placed: Sequence[tuple[Point, float, float]], up: Scale, joined: bool, width: int) -> Markup:
    """The line through a series' points and their intervals."""
    dash, out = ' stroke-dasharray="4 3"' if one.style.dashed else "", Markup("")
    if one.level and placed:
        out += Markup(
            f'<path d="M{LEFT} {placed[0][2]:.1f}H{width - RIGHT}" class="l{one.style.colour}" stroke-dasharray="1 3"/>'
        )
    elif joined and len(placed) > 1:
        out += Markup(
            f'<path d="M{"L".join(f"{x:.1f} {y:.1f}" for _, x, y in placed)}" class="l{one.style.colour}"{dash}/>'
        )
    for p, x, _ in placed:
        if p.low is not None and p.high is not None:
            out += Markup(f'<path d="M{x:.1f} {up(p.low):.1f}V{up(p.high):.1f}" class="ci l{one.style.colour}"/>')
    return out


def _marks(one: Series, placed: Sequence[tuple[Point, float, float]], joined: bool) -> Markup:
    out = Markup("")
    for p, x, y in placed:
        if p.told or not joined or len(placed) == 1:
            out += mark(x, y, one.style, 3.6, p.told)
        if p.ringed:
            out += Markup(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="7.5" class="l{one.style.colour}"/>')
    return out


def _label(words: str, x: float, y: float, taken: list[tuple[float, float]], width: int) -> Markup:
    """Beside its point, on the side that is free; nowhere where none is (hovering still tells)."""
    reach = LETTER * len(words)
    for anchor, start, middle in (("start", x + 7, x + 7 + reach / 2), ("end", x - 7, x - 7 - reach / 2)):
        free = all(abs(middle - a) > reach / 2 + 5 or abs(y - b) > 9 for a, b in taken)
        if free and LEFT < middle < width - reach / 2:
            taken.append((middle, y))
            return _text(start, y + 4, words, anchor, "soft")
    return Markup("")


def forest(
    title: str, rows: Sequence[tuple[str, float, tuple[float, float] | None, str]], x_title: str, width: int = 420
) -> Markup:
    """Differences against nothing: (name, difference, interval, what hovering says), one under another, and a line
    at zero.
    """
    left = min(190, 12 + LETTER * max((len(r[0]) for r in rows), default=0))
    ends = [v for _, d, ci, _ in rows for v in (d, *(ci or ()))]
    low, high = _padded(min([0.0, *ends]), max([0.0, *ends]), False)
    across, step = _scale(low, high, left, width - 60, False), 20
    height = TOP + step * len(rows) + BOTTOM
    body = Markup("")
    for value in _ticks(low, high, False, 4):
        body += Markup(f'<path d="M{across(value):.1f} {TOP}V{height - BOTTOM}" class="grid"/>') + _text(
            across(value), height - BOTTOM + 15, short(value)
        )
    body += Markup(f'<path d="M{across(0):.1f} {TOP - 4}V{height - BOTTOM}" class="zero"/>')
    for number, (name, difference, ci, told) in enumerate(rows):
        y = TOP + step * (number + 0.5)
        clear = ci is not None and (ci[0] > 0 or ci[1] < 0)
        style = Style(0, 0) if clear and difference > 0 else Style(1, 3) if clear else Style(7, 1)
        body += _text(left - 8, y + 4, _cut(name, int((left - 10) / LETTER)), "end", "", name)
        if ci:
            body += Markup(f'<path d="M{across(ci[0]):.1f} {y}H{across(ci[1]):.1f}" class="ci l{style.colour}"/>')
        body += mark(across(difference), y, style, 4, told) + _text(width - 4, y + 4, f"{difference:+.3f}", "end")
    body += _text((left + width - 60) / 2, height - 6, x_title, "middle", "soft")
    return _chart(title, body, width, height, label=x_title)


def heat(
    title: str,
    row_names: Sequence[str],
    column_names: Sequence[str],
    values: Sequence[Sequence[float | None]],
    tints: Sequence[Sequence[float]],
    told: Sequence[Sequence[str]],
    side: int = 46,
    written: bool = True,
) -> Markup:
    """A matrix of coloured cells. ``tints``: -1..1, how far towards the colour of less or more."""
    left = 14 + LETTER * max(len(n) for n in row_names)
    top = 26 + LETTER * 0.8 * max(len(n) for n in column_names)
    tall = min(side, 26)
    width, height = left + side * len(column_names) + top * 0.75, top + tall * len(row_names) + 8
    body = Markup("")
    for number, name in enumerate(column_names):
        x = left + side * (number + 0.5)
        body += (
            Markup(f'<text transform="translate({x:.1f} {top - 6:.1f}) rotate(-45)">')
            + escape(name)
            + Markup("</text>")
        )
    for r, name in enumerate(row_names):
        y = top + tall * r
        body += _text(left - 6, y + tall / 2 + 4, name, "end")
        for c, value in enumerate(values[r]):
            x = left + side * c
            tint = max(-1.0, min(1.0, tints[r][c])) if value is not None else 0.0
            fill = "more" if tint > 0 else "less"
            body += Markup(
                f'<rect x="{x:.1f}" y="{y:.1f}" width="{side - 1}" height="{tall - 1}" class="cell {fill}" '
                f'fill-opacity="{0.85 * abs(tint):.2f}">'
            )
            body += Markup("<title>{}</title></rect>").format(told[r][c])
            if value is not None and written:
                body += _text(x + side / 2, y + tall / 2 + 4, f"{value:.2f}")
    return _chart(title, body, math.ceil(width), math.ceil(height), fits=False)


def short(value: float) -> str:
    """1234567 -> 1.2M; what an axis has room for."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.2g}" if abs(value) < 0.1 and value else f"{value:.3g}"


def _chart(
    title: str, body: Markup, width: float, height: float, y_title: str = "", fits: bool = True, label: str = ""
) -> Markup:
    kind = "chart fit" if fits else "chart"  # a matrix scrolls, for shrunk it could not be read
    size = f'width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
    head = Markup(f'<svg class="{kind}" role="img" {size} aria-label="') + escape(title or label) + Markup('">')
    words = title + (f" ({y_title})" if y_title else "")
    shown = _text(4, 14, _cut(words, int((width - 8) / 6.6)), "start", "name") if title else Markup("")
    return head + shown + body + Markup("</svg>")


def _text(x: float, y: float, words: str, anchor: str = "middle", kind: str = "", told: str = "") -> Markup:
    head = Markup(f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"' + (f' class="{kind}">' if kind else ">"))
    return head + escape(words) + (Markup("<title>{}</title>").format(told) if told else Markup("")) + Markup("</text>")


def _cut(words: str, most: int) -> str:
    return words if len(words) <= most else words[: max(most - 1, 1)] + "…"


def _drawable(p: Point, log_x: bool, log_y: bool) -> bool:
    return all(math.isfinite(v) for v in (p.x, p.y)) and (p.x > 0 or not log_x) and (p.y > 0 or not log_y)


def _padded(low: float, high: float, log: bool) -> tuple[float, float]:
    if log:
        room = max((high / low) ** 0.06, 1.15)
        return low / room, high * room
    room = (high - low) * 0.07 or abs(high) * 0.1 or 0.1
    return low - room, high + room


def _scale(low: float, high: float, start: float, end: float, log: bool) -> Scale:
    def place(value: float) -> float:
        share = (
            (math.log(max(value, low)) - math.log(low)) / (math.log(high) - math.log(low))
            if log
            else (value - low) / (high - low)
        )
        return start + share * (end - start)

    return place


def _ticks(low: float, high: float, log: bool, most: int = 6, whole: bool = False) -> list[float]:
    """Round numbers from low to high: 1, 2 or 5 times a power of ten; of a logarithmic axis powers of ten, or 1, 2,
    5 where these are few.
    """
    if log:
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        tens = [10.0**e for e in decades if low <= 10.0**e <= high]
        found = (
            tens if len(tens) > 1 else [m * 10.0**e for e in decades for m in (1, 2, 5) if low <= m * 10.0**e <= high]
        )
        return found[:: math.ceil(len(found) / most)] if found else [low, high]
    raw = (high - low) / most
    power = 10.0 ** math.floor(math.log10(raw))
    step = max(next(m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.999), 1.0 if whole else 0.0)
    return [round(i * step, 12) for i in range(math.ceil(low / step), math.floor(high / step) + 1)]
