"""Charts as inline SVG, by plain functions. Colours are the page's CSS variables, so that a chart follows its theme and
prints.

Every chart names itself for screen readers, every mark tells its numbers on hover (``<title>``), and lines differ by
mark and dash as well as by colour. At most 360 points wide: they stand beside one another on a desk and whole on a
phone.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from engine.reporting.figures.axes import Scale, padded, scale, short, ticks
from engine.reporting.figures.marks import LETTER, Point, Series, Style, cut, mark, text

WIDTH, HEIGHT = 340, 230
LEFT, RIGHT, TOP, BOTTOM = 46, 14, 26, 40
BETTER, WORSE, UNCLEAR = Style(0, 0), Style(1, 3), Style(7, 1)  # of a difference


@dataclass(frozen=True)
class _Placed:
    """A point and where it lies."""

    point: Point
    x: float
    y: float


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
    height: int = HEIGHT,
    y_range: tuple[float, float] | None = None,
) -> Markup:
    """Points joined by lines (or not), with intervals. ``x_names``: x are places 0, 1, … with these names; else
    numbers (``whole_x``: whole ones).

    Args:
        y_range: both ends of the y axis, for charts that share one; default: what the points need.
    """
    drawn, points = [], []
    for one in series:
        drawn.append(_drawable(one, log_x, log_y))
        points += drawn[-1]
    if not points:
        return Markup("")
    y_low, y_high = y_range or _y_range(points, log_y)
    named: list[tuple[float, str]]
    if x_names:
        x_low, x_high = -0.3, len(x_names) - 0.7
        named = list(enumerate(x_names))
    else:
        xs = [point.x for point in points]
        x_low, x_high = padded(min(xs), max(xs), log_x)
        named = [(value, short(value)) for value in ticks(x_low, high=x_high, log=log_x, most=6, whole=whole_x)]
    across = scale(x_low, high=x_high, start=LEFT, end=width - RIGHT, log=log_x)
    up = scale(y_low, high=y_high, start=height - BOTTOM, end=TOP, log=log_y)
    body = _grid(ticks(y_low, y_high, log_y), up, width)
    body += _x_axis(named, across, title=x_title, width=width, height=height)
    marks = Markup("")
    taken: list[tuple[float, float]] = []
    for number, (one, found) in enumerate(zip(series, drawn, strict=True)):
        aside = _aside(number, len(series)) if x_names and not one.level else 0.0
        placed = [_Placed(point, across(point.x) + aside, up(point.y)) for point in found]
        body += _strokes(one, placed, up, joined, width)
        marks += _marks(one, placed, joined)
        taken += [(at.x, at.y) for at in placed]
    for point in points:
        if point.label:
            marks += _label(point.label, x=across(point.x), y=up(point.y), taken=taken, width=width)
    return _chart(title, body=body + marks, width=width, height=height, y_title=y_title)


def _drawable(one: Series, log_x: bool, log_y: bool) -> list[Point]:
    """Points with finite coordinates; above zero on a logarithmic axis."""
    out = []
    for point in one.points:
        finite = math.isfinite(point.x) and math.isfinite(point.y)
        if finite and (point.x > 0 or not log_x) and (point.y > 0 or not log_y):
            out.append(point)
    return out


def _y_range(points: Iterable[Point], log: bool) -> tuple[float, float]:
    """That holds all points and their intervals."""
    values = []
    for point in points:
        for value in (point.y, point.low, point.high):
            if value is not None and (value > 0 or not log):
                values.append(value)
    return padded(min(values), max(values), log)


def _aside(number: int, n: int) -> float:
    """Named places are shared by all series: their intervals stand side by side, not upon each other."""
    return (number - (n - 1) / 2) * min(5.0, 22 / n)


def _grid(values: Sequence[float], up: Scale, width: int) -> Markup:
    out = Markup("")
    for value in values:
        out += Markup(f'<path d="M{LEFT} {up(value):.1f}H{width - RIGHT}" class="grid"/>')
        out += text(LEFT - 6, up(value) + 4, short(value), "end")
    return out


def _x_axis(named: Sequence[tuple[float, str]], across: Scale, title: str, width: int, height: int) -> Markup:
    out = Markup("")
    for value, name in named:
        out += Markup(f'<path d="M{across(value):.1f} {height - BOTTOM}v4" class="axis"/>')
        out += text(across(value), height - BOTTOM + 16, name)
    out += Markup(f'<path d="M{LEFT} {height - BOTTOM}H{width - RIGHT}" class="axis"/>')
    return out + text((LEFT + width - RIGHT) / 2, height - 6, title, "middle", "soft")


def _strokes(one: Series, placed: Sequence[_Placed], up: Scale, joined: bool, width: int) -> Markup:
    """The line through a series' points and their intervals."""
    out, colour = Markup(""), one.style.colour
    if one.level and placed:
        out += Markup(f'<path d="M{LEFT} {placed[0].y:.1f}H{width - RIGHT}" class="l{colour}" stroke-dasharray="1 3"/>')
    elif joined and len(placed) > 1:
        path = "L".join(f"{at.x:.1f} {at.y:.1f}" for at in placed)
        out += Markup(f'<path d="M{path}" class="l{colour}"{one.style.dash}/>')
    for at in placed:
        low, high = at.point.low, at.point.high
        if low is not None and high is not None:
            out += Markup(f'<path d="M{at.x:.1f} {up(low):.1f}V{up(high):.1f}" class="ci l{colour}"/>')
    return out


def _marks(one: Series, placed: Sequence[_Placed], joined: bool) -> Markup:
    out = Markup("")
    for at in placed:
        if at.point.told or not joined or len(placed) == 1:
            out += mark(at.x, at.y, one.style, size=3.6, told=at.point.told)
        if at.point.ringed:
            out += Markup(f'<circle cx="{at.x:.1f}" cy="{at.y:.1f}" r="7.5" class="l{one.style.colour}"/>')
    return out


def _label(words: str, x: float, y: float, taken: list[tuple[float, float]], width: int) -> Markup:
    """Beside its point, on the side that is free; nowhere where none is (hovering still tells)."""
    reach = LETTER * len(words)
    for anchor, start, middle in (("start", x + 7, x + 7 + reach / 2), ("end", x - 7, x - 7 - reach / 2)):
        free = all(abs(middle - a) > reach / 2 + 5 or abs(y - b) > 9 for a, b in taken)
        if free and LEFT < middle < width - reach / 2:
            taken.append((middle, y))
            return text(start, y + 4, words, anchor, "soft")
    return Markup("")


def forest(
    title: str, rows: Sequence[tuple[str, float, tuple[float, float] | None, str]], x_title: str, width: int = 440
) -> Markup:
    """Differences against nothing: (name, difference, interval, what hovering says), one under another, and a line
    at zero.
    """
    left = min(215, 12 + LETTER * max((len(row[0]) for row in rows), default=0))
    ends = [0.0]
    for _, difference, ci, _ in rows:
        ends += [difference, *(ci or ())]
    low, high = padded(min(ends), max(ends), False)
    across, step = scale(low, high, start=left, end=width - 60, log=False), 20
    height = TOP + step * len(rows) + BOTTOM
    body = Markup("")
    for value in ticks(low, high, log=False, most=4):
        body += Markup(f'<path d="M{across(value):.1f} {TOP}V{height - BOTTOM}" class="grid"/>')
        body += text(across(value), height - BOTTOM + 15, short(value))
    body += Markup(f'<path d="M{across(0):.1f} {TOP - 4}V{height - BOTTOM}" class="zero"/>')
    for number, (name, difference, ci, told) in enumerate(rows):
        y = TOP + step * (number + 0.5)
        style = _style_of_difference(difference, ci)
        body += text(left - 8, y + 4, cut(name, int((left - 10) / LETTER)), "end", "", name)
        if ci:
            body += Markup(f'<path d="M{across(ci[0]):.1f} {y}H{across(ci[1]):.1f}" class="ci l{style.colour}"/>')
        body += mark(across(difference), y, style, size=4, told=told) + text(
            width - 4, y + 4, f"{difference:+.3f}", "end"
        )
    body += text((left + width - 60) / 2, height - 6, x_title, "middle", "soft")
    return _chart(title, body, width, height, label=x_title)


def _style_of_difference(difference: float, ci: tuple[float, float] | None) -> Style:
    if ci is None or ci[0] <= 0 <= ci[1]:
        return UNCLEAR
    return BETTER if difference > 0 else WORSE


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
    left = 14 + LETTER * max(map(len, row_names))
    top = 26 + LETTER * 0.8 * max(map(len, column_names))
    tall = min(side, 26)
    width, height = left + side * len(column_names) + top * 0.75, top + tall * len(row_names) + 8
    body = Markup("")
    for number, name in enumerate(column_names):
        x = left + side * (number + 0.5)
        turned = Markup(f'<text transform="translate({x:.1f} {top - 6:.1f}) rotate(-45)">')
        body += turned + escape(name) + Markup("</text>")
    for r, name in enumerate(row_names):
        y = top + tall * r
        body += text(left - 6, y + tall / 2 + 4, name, "end")
        for c, value in enumerate(values[r]):
            x = left + side * c
            tint = 0.0
            if value is not None:
                tint = max(-1.0, min(1.0, tints[r][c]))
            body += Markup(f'<rect x="{x:.1f}" y="{y:.1f}" width="{side - 1}" height="{tall - 1}" {_fill(tint)}>')
            body += Markup("<title>{}</title></rect>").format(told[r][c])
            if value is not None and written:
                body += text(x + side / 2, y + tall / 2 + 4, f"{value:.2f}")
    return _chart(title, body, width=math.ceil(width), height=math.ceil(height), fits=False)


def tint_key(strongest: float, less: str, more: str, width: int = 310) -> Markup:
    """What the colours of a heat map mean: a scale from ``-strongest`` to ``strongest``, words below both of its
    ends.
    """
    shares = (-1.0, -0.75, -0.5, -0.25, 0.0, 0.25, 0.5, 0.75, 1.0)
    side = (width - 8) / len(shares)
    body = Markup("")
    for number, share in enumerate(shares):
        x = 4 + side * number
        body += Markup(f'<rect x="{x:.1f}" y="6" width="{side - 1:.1f}" height="16" {_fill(share)}/>')
        if number % 2 == 0:
            value = share * strongest
            body += text(x + side / 2, 36, f"{value:+.2f}" if value else "0")
    body += text(4, 54, less, "start") + text(width - 4, 54, more, "end")
    return _chart("", body, width=width, height=62, label=f"colours: {less} to {more}")


def _fill(tint: float) -> str:
    colour = "more" if tint > 0 else "less"
    return f'class="cell {colour}" fill-opacity="{0.85 * abs(tint):.2f}"'


def _chart(
    title: str, body: Markup, width: float, height: float, y_title: str = "", fits: bool = True, label: str = ""
) -> Markup:
    kind = "chart fit" if fits else "chart"  # a matrix scrolls, for shrunk it could not be read
    size = f'width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
    out = Markup(f'<svg class="{kind}" role="img" {size} aria-label="') + escape(title or label) + Markup('">')
    if title:
        words = title
        if y_title:
            words += f" ({y_title})"
        out += text(4, 14, cut(words, int((width - 8) / 6.6)), "start", "name")
    return out + body + Markup("</svg>")
