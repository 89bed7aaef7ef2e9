"""Two kinds of charts as PNG files, drawn with Pillow (which tensorboard brings): no plotting library, no display."""

import io
import math
import os
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

# told apart by colour-blind readers too (Okabe and Ito, 2008), and a few greys
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442", "#8c8c8c", "#595959", "#bfbfbf")
INK, GRID, WIDTH, FINE = "#222222", "#dddddd", 1000, 2  # drawn at twice the size: what is saved has smooth edges


class _Canvas:
    """A white sheet with text and shapes, in final pixels."""

    def __init__(self, height: float):
        self.image = Image.new("RGB", (WIDTH * FINE, int(height) * FINE), "white")
        self.draw = ImageDraw.Draw(self.image)
        self.fonts = {size: ImageFont.load_default(size * FINE) for size in (13, 15, 19)}

    def text(self, x: float, y: float, text: str, size: int = 15, anchor: str = "lm") -> None:
        self.draw.text((x * FINE, y * FINE), text, INK, self.fonts[size], anchor)

    def upright(self, x: float, y: float, text: str, size: int = 15) -> None:
        """Text that reads upwards, its middle at this place."""
        font = self.fonts[size]
        sheet = Image.new("RGB", (math.ceil(font.getlength(text)), 2 * size * FINE), "white")
        ImageDraw.Draw(sheet).text((0, size * FINE), text, INK, font, "lm")
        turned = sheet.transpose(Image.Transpose.ROTATE_90)
        self.image.paste(turned, (round(x * FINE) - turned.width // 2, round(y * FINE) - turned.height // 2))

    def wide(self, text: str, size: int = 15) -> float:
        return float(self.fonts[size].getlength(text)) / FINE

    def line(self, points: Sequence[tuple[float, float]], colour: str, width: float = 1) -> None:
        fine = [(x * FINE, y * FINE) for x, y in points]
        self.draw.line(fine, colour, max(1, round(width * FINE)), "curve")

    def dashes(self, points: Sequence[tuple[float, float]], colour: str, width: float = 1, dash: float = 9) -> None:
        """A line of dashes as long as the gaps between them."""
        for (x, y), (x2, y2) in pairwise(points):
            n = max(1, round(math.dist((x, y), (x2, y2)) / dash))
            for i in range(0, n, 2):
                begin, end = i / n, min((i + 1) / n, 1.0)
                ends = [(x + (x2 - x) * share, y + (y2 - y) * share) for share in (begin, end)]
                self.line(ends, colour, width)

    def path(self, places: Sequence[tuple[float, float]], colour: str, dashed: bool) -> None:
        """A line with a dot at each place; dashed without dots."""
        if dashed:
            self.dashes(places, colour, 2)
            return
        self.line(places, colour, 2.5)
        for x, y in places:
            self.dot(x, y, colour)

    def box(self, x: float, y: float, x2: float, y2: float, colour: str) -> None:
        if x2 > x:
            self.draw.rectangle((x * FINE, y * FINE, x2 * FINE, y2 * FINE), colour)

    def dot(self, x: float, y: float, colour: str) -> None:
        self.draw.ellipse(((x - 4) * FINE, (y - 4) * FINE, (x + 4) * FINE, (y + 4) * FINE), colour)

    def legend(self, names: Sequence[str], x: float, y: float) -> None:
        left = x
        for name, colour in zip(names, COLOURS * 3, strict=False):
            if left + 26 + self.wide(name, 13) > WIDTH - 20:
                left, y = x, y + 22
            self.box(left, y=y - 6, x2=left + 12, y2=y + 6, colour=colour)
            self.text(left + 18, y, name, 13)
            left += 38 + self.wide(name, 13)

    def save(self, file: Path) -> None:
        """Whole or not at all, for its owner alone."""
        out = io.BytesIO()
        self.image.resize((WIDTH, self.image.height // FINE), Image.Resampling.LANCZOS).save(out, "PNG", optimize=True)
        partial = file.with_name(f".{file.name}.partial")
        handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(handle, "wb") as stream:
            stream.write(out.getvalue())
        partial.replace(file)


def stacked_bar_chart(
    file: Path,
    title: str,
    unit: str,
    labels: Sequence[str],
    parts: Mapping[str, Sequence[float]],
    notes: Sequence[str] = (),
) -> None:
    """A horizontal bar a label, of coloured parts; a note behind each. ``parts``: name -> a value at least 0 for
    every label.
    """
    top, bar, gap = 96 + 22 * (len(parts) > 7), 34, 18
    canvas = _Canvas(top + len(labels) * (bar + gap) + 64)
    left = 30 + min(320, max(canvas.wide(_short(x)) for x in labels))
    right = WIDTH - 30 - max([0.0, *(canvas.wide(n, 13) for n in notes)])
    totals = [sum(values[i] for values in parts.values()) for i in range(len(labels))]
    ticks = ticks_to(max([*totals, 1e-12]))
    scale = (right - left) / ticks[-1]
    bottom = top + len(labels) * (bar + gap)
    canvas.text(20, 28, title, 19)
    canvas.legend(list(parts), 20, 64)
    for tick in ticks:
        canvas.line([(left + tick * scale, top - 8), (left + tick * scale, bottom)], GRID)
        canvas.text(left + tick * scale, bottom + 14, f"{tick:g}", 13, "mm")
    canvas.text((left + right) / 2, bottom + 40, unit, 13, "mm")
    for i, label in enumerate(labels):
        y, x = top + i * (bar + gap), left
        canvas.text(left - 10, y + bar / 2, _short(label), anchor="rm")
        for values, colour in zip(parts.values(), COLOURS * 3, strict=False):
            canvas.box(x, y, x2=x + values[i] * scale, y2=y + bar, colour=colour)
            x += values[i] * scale
        if notes:
            canvas.text(x + 8, y + bar / 2, notes[i], 13)
    canvas.save(file)


def line_chart(
    file: Path,
    title: str,
    across: str,
    upwards: str,
    series: Mapping[str, Sequence[tuple[float, float]]],
    by_logs: bool = False,
    dashed: Sequence[str] = (),
) -> None:
    """Lines through points (x, y), from 0 upwards. ``upwards`` names the y axis and its unit; series in ``dashed`` are
    no measurements (an ideal, say) and have no dots. A range of x of more than eight to one is drawn by its logarithm;
    ``by_logs``: both are, whatever their ranges, so that what grows in proportion is straight. Values are then above
        0.
    """
    canvas = _Canvas(560)
    xs, ys = [], []
    for own in series.values():
        for x, y in own:
            xs.append(x)
            ys.append(y)
    ticks = log_ticks(min(ys), max(ys)) if by_logs else ticks_to(max(*ys, 1e-12))
    labels = [_number(tick) for tick in ticks]
    left, right, top, bottom = 66 + max(canvas.wide(label, 13) for label in labels), WIDTH - 40, 96, 490
    across_by_log = by_logs or (min(xs) > 0 and max(xs) / min(xs) > 8)
    x_low, x_high = _scaled(min(xs), across_by_log), _scaled(max(xs), across_by_log)

    def at_x(x: float) -> float:
        share = 0.5
        if x_high != x_low:
            share = (_scaled(x, across_by_log) - x_low) / (x_high - x_low)
        return left + 20 + (right - left - 40) * share

    def at_y(y: float) -> float:
        rise = y / ticks[-1]
        if by_logs:
            rise = math.log(y / ticks[0]) / math.log(ticks[-1] / ticks[0])
        return bottom - (bottom - top) * rise

    canvas.text(20, 28, title, 19)
    canvas.legend(list(series), 20, 64)
    canvas.upright(24, (top + bottom) / 2, upwards)
    for tick, label in zip(ticks, labels, strict=True):
        canvas.line([(left, at_y(tick)), (right, at_y(tick))], GRID)
        canvas.text(left - 8, at_y(tick), label, 13, "rm")
    for x in sorted(set(xs)):
        canvas.text(at_x(x), bottom + 18, f"{x:,g}", 13, "mm")
    canvas.text((left + right) / 2, bottom + 46, across, 15, "mm")
    for (name, own), colour in zip(series.items(), COLOURS * 3, strict=False):
        canvas.path([(at_x(x), at_y(y)) for x, y in own], colour, dashed=name in dashed)
    canvas.save(file)


def _scaled(value: float, by_log: bool) -> float:
    """Where a value lies on an axis, before the axis is fitted to the canvas."""
    if by_log:
        return math.log(value)
    return value


def ticks_to(largest: float) -> list[float]:
    """Four to nine round numbers from 0 to the first at or above ``largest``."""
    rough = largest / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(s * power for s in (1, 2, 5, 10) if s * power >= rough * 0.999)
    if step > 1.9 * rough:
        step /= 2
    count = math.ceil(largest / step * 0.999)
    return [float(f"{i * step:.6g}") for i in range(count + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """1, 2, 5, 10 … from the last at or below ``low`` to the first at or above ``high``; at least two."""
    every = []
    for exponent in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 2):
        every += [float(f"{m}e{exponent}") for m in (1, 2, 5)]
    first = max(i for i, t in enumerate(every) if t <= low * 1.001)
    last = min(i for i, t in enumerate(every) if t >= high * 0.999)
    return every[first : max(last, first + 1) + 1]


def _number(value: float) -> str:
    if 1e4 <= value < 1e12:
        return f"{value:,.0f}"
    return f"{value:g}"


def _short(label: str, most: int = 42) -> str:
    if len(label) <= most:
        return label
    return label[: most - 1] + "…"
