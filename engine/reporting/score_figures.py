"""Figures of scores, each with the numbers it was drawn from: over training examples, against other methods, from one
source alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from markupsafe import Markup

from engine.evaluation import interval_around
from engine.reporting.blocks import Block, Figure, Table
from engine.reporting.charts import WIDTH, forest, heat, lines
from engine.reporting.data import Run, mean_of, shots_value, source_of
from engine.reporting.marks import Point, Series, Style, key, style_of
from engine.reporting.words import examples, score, with_spread

Interval = tuple[float, float] | None


def few_shot(run: Run) -> list[Block]:
    """Scores over the number of training examples: averages, and each task; nothing where no method has two numbers
    of them.
    """
    methods = run.methods()
    shots = sorted({s for _, s in run.columns()}, key=shots_value)
    if len(shots) < 2 or run.role != "target":
        return []
    averages = run.averages()
    whole = []
    for method in methods:
        points = {s: _average_point(run, method, shots=s, value=value) for s, value in averages.get(method, {}).items()}
        whole.append(_series(method, methods, shots, points))
    charts = [_curves("average of targets", whole, shots, "score", width=360)]
    for name, task in run.tasks.items():
        one = []
        for method in methods:
            points = {s: _task_point(method, s, cell) for s, cell in task["methods"].get(method, {}).items()}
            one.append(_series(method, methods, shots, points))
        charts.append(_curves(name, one, shots, task["metric"]))
    numbers = Table(["method", *shots], [[method, *_spreads(run, method, shots)] for method in methods])
    caption = "Averages over the targets, with half the 95 % interval over seeds (Student's t) where there are several."
    colours = (
        "Bars: these intervals, cut at 0 and 1. The numbers of examples are not to scale. The written instruction "
        "takes no examples: a line across."
    )
    return [Figure("Scores over training examples", charts, caption, colours, keys_of(methods), numbers)]


def _curves(title: str, series: Sequence[Series], shots: Sequence[str], y_title: str, width: int = WIDTH) -> Markup:
    shown = [one for one in series if one.points]
    return lines(title, shown, shots, "training examples", y_title, width=width)


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
    return Point(0, value, low, high, f"{method}, {shots} examples: {with_spread(value, half)}")


def _task_point(method: str, shots: str, cell: Mapping[str, Any]) -> Point:
    low, high = _within_scores(cell["ci95"])
    return Point(0, cell["mean"], low, high, f"{method}, {shots} examples: {score(cell['mean'])}")


def _within_scores(interval: Sequence[float] | None) -> tuple[float | None, float | None]:
    """Cut at 0 and 1."""
    if not interval:
        return None, None
    return max(interval[0], 0.0), min(interval[1], 1.0)


def keys_of(methods: Sequence[str], line: bool = True) -> list[tuple[Markup, str]]:
    return [(key(style_of(method, methods), line), method) for method in methods]


def by_run(runs: Sequence[Run]) -> list[Block]:
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
    chart = lines("average of targets", series, shots, "training examples", width=360)
    keys = [(key(one.style), one.name) for one in series]
    numbers = Table(["run", *shots], [[run.name, *_spreads(run, "metaprompt", shots)] for run in found])
    return [Figure("The metaprompt, by run", [chart], keys=keys, numbers=numbers)]


def differences(
    title: str,
    charts: Sequence[tuple[str, Sequence[tuple[str, Mapping[str, Any]]]]],
    caption: str,
    x_title: str,
    numbers: Table | None = None,
) -> Figure:
    """Of the metaprompt to others: (title, [(name, {difference, interval})]) of each chart."""
    drawn = []
    for heading, rows in charts:
        marks: list[tuple[str, float, Interval, str]] = []
        for name, d in rows:
            ends, told = None, f"{name}: {d['difference']:+.3f}"
            if d.get("interval"):
                low, high = ends = tuple(d["interval"])
                told += f", 95 % interval {low:+.3f} to {high:+.3f}"
            marks.append((name, d["difference"], ends, told))
        drawn.append(forest(heading, marks, x_title))
    colours = "Lines: 95 % intervals. Blue: above 0, orange: below it, grey: it holds 0, or there is none."
    return Figure(title, drawn, caption, colours, (), numbers)


def transfer(run: Run) -> list[Block]:
    """Sources x targets, of the variants adapted from one source's factors alone; a matrix for each number of
    examples.
    """
    columns = run.columns(transfer=True)
    if not columns:
        return []
    charts, rows = [], []
    for shots in sorted({s for _, s in columns}, key=shots_value):
        variants = [method for method, s in columns if s == shots]
        names = [*map(source_of, variants), "all sources"]
        values = [_over_tasks(run, method, shots) for method in (*variants, "metaprompt")]
        charts.append(_matrix(examples(shots), names, targets=list(run.tasks), values=values))
        for name, row in zip(names, values, strict=True):
            rows.append([name, shots, *map(score, row)])
    caption = "Score on a target (column) of prompts adapted from one source task's factors (row)."
    colours = "Blue: better than from all sources (last row), orange: worse; each matrix has its own strongest tint."
    numbers = Table(["source", "shots", *run.tasks], rows, 2)
    return [Figure("Which source helps which target", charts, caption, colours, (), numbers)]


def _over_tasks(run: Run, method: str, shots: str) -> list[float | None]:
    return [mean_of(task, method, shots) for task in run.tasks.values()]


def _matrix(
    title: str, names: Sequence[str], targets: Sequence[str], values: Sequence[Sequence[float | None]]
) -> Markup:
    """A heat map of scores, tinted by their gain over those of the last row: of all sources."""
    gains, told = [], []
    for name, row in zip(names, values, strict=True):
        row_gains, row_told = [], []
        for target, value, base in zip(targets, row, values[-1], strict=True):
            told_gain, gain = "", 0.0
            if value is not None and base is not None:
                gain = value - base
                told_gain = f" ({gain:+.3f} to all sources)"
            row_gains.append(gain)
            row_told.append(f"{name} to {target}: {score(value) or 'not scored'}{told_gain}")
        gains.append(row_gains)
        told.append(row_told)
    strongest = max(0.02, *(abs(gain) for row in gains for gain in row))
    tints = [[gain / strongest for gain in row] for row in gains]
    return heat(title, row_names=names, column_names=targets, values=values, tints=tints, told=told)
