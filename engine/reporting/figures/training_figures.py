"""Figures of training, each with the numbers it was drawn from: what it cost, the learning rates tried, the losses."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from markupsafe import Markup

from engine.reporting.blocks import Block, Cell, Figure, Table, Text
from engine.reporting.data import Run, shots_value
from engine.reporting.figures.charts import WIDTH, lines
from engine.reporting.figures.marks import Point, Series, Style, key, style_of
from engine.reporting.figures.score_figures import keys_of
from engine.reporting.words import examples, learning_rate, score, significant

LOSSES = {"loss": 0, "ce": 1, "kl": 2, "hidden": 3}
LOSS_WORDS = {
    "loss": "loss (all terms)",
    "ce": "cross-entropy",
    "kl": "KL to the teacher",
    "hidden": "hidden-state MSE",
}
MOST_STEPS = 12  # of a training curve that are written as numbers


class _Cost(NamedTuple):
    """What one cell of the averages took; None where it was not recorded."""

    method: str
    shots: str
    score: float
    trainable: int | None
    tokens: float | None
    device_hours: float | None


AXES = {
    "trainable": "trainable numbers of one task",
    "tokens": "tokens trained on",
    "device_hours": "device hours",
}
COST_DIGITS = {"trainable": 0, "tokens": 0, "device_hours": 3}  # significant ones; 0: whole numbers


def cost(run: Run, axis: tuple[float, float] | None = None) -> list[Block]:
    """Average score against trainable numbers, tokens and device hours; what was not recorded is left out."""
    costs = _costs(run)
    charts = []
    for field in AXES:
        if run.role == "target" and field == "trainable":
            continue  # the first screen has it
        chart = cost_chart(run, axis, field)
        if chart:
            charts.append(chart)
    if not costs:
        return []
    if len(costs) < 2:  # one point shows nothing
        charts = []
    head = ["method", "shots", "average score", "trainable numbers", "tokens of a row", "device hours of a row"]
    caption = (
        "Average over the tasks. A row is one task, method, number of examples and seed. All rows train in one pass: "
        "a row's device hours are its share of that pass, by tokens. The distillation before it is not included."
    )
    colours = "Small words: numbers of examples."
    keys = keys_of(list(dict.fromkeys(one.method for one in costs)), False)
    numbers = Table(head, [_cost_row(one) for one in costs], 2)
    if not charts:
        return [Text(caption), numbers]
    return [Figure("Score against cost", charts, caption, colours, keys, numbers)]


def cost_chart(run: Run, axis: tuple[float, float] | None, field: str = "trainable", width: int = WIDTH) -> Markup:
    """Average score against one kind of cost; empty where that was not recorded."""
    methods, title = run.methods(), AXES[field]
    series = []
    for method in methods:
        points = _cost_points(_costs(run), method, field)
        if points:
            series.append(Series(method, style_of(method, methods), points))
    if not series:
        return Markup("")
    heading = f"score against {title}"
    return lines(heading, series, (), title, log_x=True, joined=False, y_range=axis, width=width)


def _costs(run: Run) -> list[_Cost]:
    averages, recorded = run.averages(), run.results.get("cost", {})
    trainable = run.results["trainable"].get("methods", {})
    out = []
    for method, shots in run.columns():
        counted = method in trainable or shots in recorded.get(method, {})
        if counted and shots in averages.get(method, {}):
            spent = recorded.get(method, {}).get(shots, {})
            count = trainable.get(method, {}).get("count")
            value = averages[method][shots]
            out.append(_Cost(method, shots, value, count, spent.get("tokens"), spent.get("device_hours")))
    return out


def _cost_points(costs: Sequence[_Cost], method: str, field: str) -> list[Point]:
    out = []
    for one in costs:
        spent = getattr(one, field)
        if one.method == method and spent:
            told = f"{method}, {examples(one.shots)}: {one.score:.3f} at {significant(spent, 4)} {AXES[field]}"
            out.append(Point(spent, one.score, told=told, label=one.shots))
    return out


def _cost_row(one: _Cost) -> list[str]:
    row = [one.method, one.shots, score(one.score)]
    for field, digits in COST_DIGITS.items():
        spent = getattr(one, field)
        row.append("" if spent is None else significant(spent, digits))
    return row


def sweeps(run: Run, axis: tuple[float, float] | None = None) -> list[Block]:
    """Validation scores of every learning rate that was tried."""
    tuning = run.results.get("tuning") or {}
    methods = list(tuning)
    every_shots: set[str] = set().union(*tuning.values())
    charts: list[Markup] = []
    rows: list[list[Cell | str]] = []
    for shots in sorted(every_shots, key=shots_value):
        series = []
        for method in methods:
            tried = tuning[method].get(shots)
            if tried:
                rows += _tried_rows(method, shots, tried)
                series.append(Series(method, style_of(method, methods), _tried_points(method, tried)))
        inside = axis and all(axis[0] <= point.y <= axis[1] for one in series for point in one.points)
        y_range = axis if inside else None  # a validation score that is no fraction has an axis of its own
        title = examples(shots)
        charts.append(lines(title, series, (), "learning rate", "validation score", log_x=True, y_range=y_range))
    if not rows:
        return []
    caption = (
        "Mean validation score over the targets; the best of each method and number of examples was used on test "
        "data, that of the nearest number where none was tried."
    )
    numbers = Table(["method", "shots", "learning rate", "validation score"], rows, 2)
    keys = keys_of(methods)
    return [Figure("What was tried on validation data", charts, caption, "Ringed: the best.", keys, numbers)]


def _tried_rows(method: str, shots: str, tried: Mapping[str, Any]) -> list[list[Cell | str]]:
    out: list[list[Cell | str]] = []
    for number, (rate, value) in enumerate(zip(tried["rates"], tried["scores"], strict=True)):
        cell = Cell(score(value))
        if number == tried["best"]:
            cell = Cell(score(value), "chosen", "good")
        out.append([method, shots, learning_rate(rate), cell])
    return out


def _tried_points(method: str, tried: Mapping[str, Any]) -> list[Point]:
    """By learning rate; of several rates the first counts."""
    out = []
    for number, (rate, value) in enumerate(zip(tried["rates"], tried["scores"], strict=True)):
        told = f"{method}, rate {learning_rate(rate)}: {score(value)}"
        if isinstance(rate, dict):
            rate = next(iter(rate.values()))
        out.append(Point(float(rate), value, told=told, ringed=number == tried["best"]))
    return sorted(out, key=lambda point: point.x)


def training(run: Run) -> list[Block]:
    """Losses as they were logged, of the run and of its teachers and sweeps."""
    charts: list[Markup] = []
    rows: list[list[str]] = []
    drawn: set[str] = set()
    for name, steps in run.curves.items():
        where = name or "this run"
        series = _losses(steps)
        drawn |= {one.name for one in series}
        chart = _loss_chart(where, series)
        if chart:
            charts.append(chart)
        rows += [_step_row(where, step) for step in _some(steps)]
    if not rows:
        return []
    keys = []
    for term, colour in LOSSES.items():
        if term in drawn:
            keys.append((key(_loss_style(colour)), LOSS_WORDS[term]))
    caption = f"From metrics.jsonl; of each curve at most {MOST_STEPS + 1} steps are written out."
    numbers = Table(["of", "step", *LOSSES, "learning rate", "tokens a second"], rows, 1)
    return [Figure("Losses as they were logged", charts, caption, "", keys, numbers)]


def _losses(steps: Sequence[Mapping[str, Any]]) -> list[Series]:
    """Terms that are not zero throughout; cross-entropy only where it is not the whole loss."""
    out = []
    for term, colour in LOSSES.items():
        points = []
        for step in steps:
            value = step.get(term)
            if isinstance(value, int | float) and math.isfinite(value):
                points.append(Point(step["step"], value))
        repeated = term == "ce" and all(step.get("loss") == step.get("ce") for step in steps)
        if any(point.y for point in points) and not repeated:
            out.append(Series(term, _loss_style(colour), points))
    return out


def _loss_style(colour: int) -> Style:
    return Style(colour, colour, colour > 0)


def _loss_chart(where: str, series: Sequence[Series]) -> Markup:
    """On a logarithmic axis where values differ more than thirtyfold."""
    positive: list[float] = []
    for one in series:
        positive += [point.y for point in one.points if point.y > 0]
    wide = bool(positive) and max(positive) / min(positive) > 30
    y_title = "loss, logarithmic" if wide else "loss"
    return lines(where, series, (), "step", y_title, log_y=wide, whole_x=True)


def _some(steps: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """At even distances, and the last one."""
    out = list(steps[:: math.ceil(len(steps) / MOST_STEPS)])
    if out[-1] is not steps[-1]:
        out.append(steps[-1])
    return out


def _step_row(where: str, step: Mapping[str, Any]) -> list[str]:
    row = [where, str(step["step"])]
    for term in (*LOSSES, "lr", "tokens_per_s"):
        value = step.get(term)
        row.append(significant(value, 4) if isinstance(value, int | float) else "")
    return row
