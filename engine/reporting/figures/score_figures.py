"""Figures of scores, each with the numbers it was drawn from: over training examples, against other methods, from one
source alone.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from markupsafe import Markup

from engine.evaluation import OUR_METHOD, interval_around
from engine.reporting.blocks import Block, Figure, Table
from engine.reporting.data import Run, mean_of, shots_value, source_of
from engine.reporting.figures.charts import HEIGHT, WIDTH, forest, heat, lines, tint_key
from engine.reporting.figures.marks import Point, Series, Style, key, style_of
from engine.reporting.words import examples, score, with_spread

Interval = tuple[float, float] | None


def score_range(runs: Sequence[Run]) -> tuple[float, float]:
    """Of every score axis of a report, so that its charts compare: from the lowest score, rounded down, to 1."""
    found = [0.9]
    for run in runs:
        for task in run.tasks.values():
            for method, shots in run.columns():
                cell = task["methods"].get(method, {}).get(shots)
                if cell:
                    found += [cell["mean"], *(cell["ci95"] or ())[:1]]
        for method, by_shots in run.averages().items():
            for shots, value in by_shots.items():
                found.append(value - (run.half_interval(method, shots) or 0.0))
    return max(math.floor(10 * min(found)) / 10, 0.0), 1.0


def few_shot(run: Run, axis: Interval = None, whole: bool = True) -> list[Block]:
    """Scores over the number of training examples: averages, and each task; nothing where no method has two numbers
    of them.

    Args:
        axis: both ends of the score axis; default: of this run.
        whole: the averages too, and their numbers.
    """
    methods, shots = run.methods(), _shots(run)
    if len(shots) < 2 or run.role != "target":
        return []
    axis = axis or score_range([run])
    charts = [average_chart(run, axis)] if whole else []
    for name, task in run.tasks.items():
        one = []
        for method in methods:
            points = {s: _task_point(method, s, cell) for s, cell in task["methods"].get(method, {}).items()}
            one.append(_series(method, methods, shots, points))
        charts.append(_curves(name, one, shots, task["metric"] if whole else "", axis, small=not whole))
    numbers = Table(["method", *shots], [[method, *_spreads(run, method, shots)] for method in methods])
    caption = "Score of each target task by number of training examples."
    if whole:
        caption = "Averages over the targets, with half the 95 % interval over seeds (Student's t)."
    colours = (
        "Bars: 95 % intervals over seeds, cut at 0 and 1. The numbers of examples are not to scale. The written "
        "instruction takes no examples: a dotted line across. All score axes of this report have the same range."
    )
    return [Figure("Scores over training examples", charts, caption, colours, keys_of(methods), numbers)]


def average_chart(run: Run, axis: Interval = None, width: int = WIDTH) -> Markup:
    """The averages over the targets by number of examples, a line for each method."""
    averages, methods, shots = run.averages(), run.methods(), _shots(run)
    series = []
    for method in methods:
        points = {s: _average_point(run, method, shots=s, value=value) for s, value in averages.get(method, {}).items()}
        series.append(_series(method, methods, shots, points))
    return _curves("average of targets", series, shots, "score", axis or score_range([run]), width=width)


def _shots(run: Run) -> list[str]:
    """Every number of examples, ascending."""
    return sorted({s for _, s in run.columns()}, key=shots_value)


def _curves(
    title: str,
    series: Sequence[Series],
    shots: Sequence[str],
    y_title: str,
    axis: Interval,
    width: int = WIDTH,
    small: bool = False,
) -> Markup:
    shown = [one for one in series if one.points]
    height = HEIGHT
    if small:
        width, height = 256, 176
    return lines(title, shown, shots, "training examples", y_title=y_title, width=width, height=height, y_range=axis)


def _spreads(run: Run, method: str, shots: Sequence[str]) -> list[str]:
    """Of every number of shots the average and half its interval; empty where there is none."""
    out = dict.fromkeys(shots, "")
    for s, value in run.averages().get(method, {}).items():
        if s in out:
            out[s] = with_spread(value, run.half_interval(method, s))
    return list(out.values())


def _series(method: str, methods: Sequence[str], shots: Sequence[str], points: Mapping[str, Point]) -> Series:
    return Series(method, style_of(method, methods), _in_order(points, shots), method == "instruction")


def _in_order(points: Mapping[str, Point], shots: Sequence[str]) -> list[Point]:
    return [replace(points[s], x=place) for place, s in enumerate(shots) if s in points]


def _average_point(run: Run, method: str, shots: str, value: float) -> Point:
    half = run.half_interval(method, shots)
    low, high = _within_scores(interval_around(value, half))
    return Point(0, value, low, high, f"{method}, {examples(shots)}: {with_spread(value, half)}")


def _task_point(method: str, shots: str, cell: Mapping[str, Any]) -> Point:
    low, high = _within_scores(cell["ci95"])
    return Point(0, cell["mean"], low, high, f"{method}, {examples(shots)}: {score(cell['mean'])}")


def _within_scores(interval: Sequence[float] | None) -> tuple[float | None, float | None]:
    """Cut at 0 and 1."""
    if not interval:
        return None, None
    return max(interval[0], 0.0), min(interval[1], 1.0)


def keys_of(methods: Sequence[str], line: bool = True) -> list[tuple[Markup, str]]:
    return [(key(style_of(method, methods), line), method) for method in methods]


def by_run(runs: Sequence[Run], axis: Interval = None) -> list[Block]:
    """The metaprompt's averages of several runs, a line each."""
    found: list[Run] = []
    every_shots: set[str] = set()
    for run in runs:
        averages = run.averages().get("metaprompt", {})
        every_shots |= averages.keys()
        if run.role == "target" and averages:
            found.append(run)
    shots = sorted(every_shots, key=shots_value)
    if len(found) < 2 or len(shots) < 2:
        return []
    series = []
    for number, run in enumerate(found):
        averages = run.averages()["metaprompt"]
        points = {s: _average_point(run, method=run.name, shots=s, value=value) for s, value in averages.items()}
        style = Style(number % 8, number % 6, number > 7)
        series.append(Series(run.name, style, _in_order(points, shots)))
    chart = lines("average of targets", series, shots, "training examples", width=360, y_range=axis)
    keys = [(key(one.style), one.name) for one in series]
    numbers = Table(["run", *shots], [[run.name, *_spreads(run, "metaprompt", shots)] for run in found])
    return [Figure("The metaprompt, by run", [chart], keys=keys, numbers=numbers)]


Rows = Sequence[tuple[str, Mapping[str, Any]]]
DIFFERENCE_KEY = "Lines: 95 % intervals. Blue: above 0, orange: below 0, grey: the interval holds 0, or there is none."


def differences(title: str, charts: Sequence[tuple[str, Rows]], caption: str, x_title: str) -> Figure:
    """Of the metaprompt to others: (title, [(name, {difference, interval})]) of each chart."""
    drawn = [difference_chart(heading, rows, x_title) for heading, rows in charts]
    return Figure(title, drawn, caption, DIFFERENCE_KEY)


def difference_chart(title: str, rows: Rows, x_title: str, width: int = 420) -> Markup:
    """[(name, {difference, interval})], one under another."""
    marks: list[tuple[str, float, Interval, str]] = []
    for name, d in rows:
        ends, told = None, f"{name}: {d['difference']:+.3f}"
        if d.get("interval"):
            low, high = ends = tuple(d["interval"])
            told += f", 95 % interval {low:+.3f} to {high:+.3f}"
        marks.append((name, d["difference"], ends, told))
    return forest(title, marks, x_title, width)


def transfer(run: Run) -> list[Block]:
    """Sources x targets, of the variants adapted from one source's factors alone; a matrix for each number of
    examples.
    """
    columns = run.columns(transfer=True)
    if not columns:
        return []
    matrices, rows = {}, []
    for shots in sorted({s for _, s in columns}, key=shots_value):
        variants = [method for method, s in columns if s == shots]
        names = [*map(source_of, variants), "all sources"]
        values = [_over_tasks(run, method, shots) for method in (*variants, OUR_METHOD)]
        matrices[examples(shots)] = (names, values)
        for name, row in zip(names, values, strict=True):
            rows.append([name, shots, *map(score, row)])
    charts = transfer_charts(matrices, list(run.tasks))
    numbers = Table(["source", "shots", *run.tasks], rows, 2)
    return [Figure("Which source helps which target", charts, TRANSFER, TRANSFER_KEY, (), numbers)]


Values = Sequence[Sequence[float | None]]
TRANSFER = "Score on a target (column) of prompts that were adapted from one source task's factors (row)."
TRANSFER_KEY = "The colour is the difference to the prompts adapted from all sources (last row)."


def transfer_charts(matrices: Mapping[str, tuple[Sequence[str], Values]], targets: Sequence[str]) -> list[Markup]:
    """A legend, then a matrix for each title; one scale of colours for all, by the largest difference.

    Args:
        matrices: title -> (sources, of which the last is all of them; scores by source and target).
    """
    strongest = 0.02
    for _, values in matrices.values():
        for row in _gains(values):
            strongest = max(strongest, *map(abs, row))
    legend = tint_key(strongest, "worse than all sources", "better than all sources")
    return [legend, *(_matrix(title, *matrix, targets, strongest) for title, matrix in matrices.items())]


def _gains(values: Values) -> list[list[float]]:
    """Of every score over that of the last row; 0 where either is missing."""
    out = []
    for row in values:
        gains = []
        for value, base in zip(row, values[-1], strict=True):
            gains.append(0.0 if value is None or base is None else value - base)
        out.append(gains)
    return out


def _over_tasks(run: Run, method: str, shots: str) -> list[float | None]:
    return [mean_of(task, method, shots) for task in run.tasks.values()]


def _matrix(title: str, names: Sequence[str], values: Values, targets: Sequence[str], strongest: float) -> Markup:
    """A heat map of scores, tinted by their gain over those of the last row: of all sources."""
    gains, told = _gains(values), []
    for name, row, row_gains in zip(names, values, gains, strict=True):
        row_told = []
        for target, value, base, gain in zip(targets, row, values[-1], row_gains, strict=True):
            told_gain = f" ({gain:+.3f} to all sources)" if value is not None and base is not None else ""
            row_told.append(f"{name} to {target}: {score(value) or 'not scored'}{told_gain}")
        told.append(row_told)
    tints = [[gain / strongest for gain in row] for row in gains]
    rows, columns = _short_names(names), _short_names(targets)
    return heat(title, row_names=rows, column_names=columns, values=values, tints=tints, told=told)


def _short_names(names: Sequence[str]) -> list[str]:
    """Without the word that marks invented notes, which leaves room for the matrix."""
    return [name.removeprefix("pocket_") for name in names]
