"""The report's figures, each with the numbers it was drawn from."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from engine.evaluation import by_seed, student
from engine.reporting.blocks import Block, Cell, Figure, Section, Table, Text
from engine.reporting.charts import Point, Series, Style, forest, heat, key, lines, style_of
from engine.reporting.data import Run, shots_value, source_of
from engine.reporting.geometry import Geometry

TYPES = {"ner": 0, "re": 1, "qa": 2, "nli": 3, "summarization": 4}
LOSSES = {"loss": 0, "ce": 1, "kl": 2, "hidden": 3}
LOSS_WORDS = {
    "loss": "loss (all terms)",
    "ce": "cross-entropy",
    "kl": "KL to the teacher",
    "hidden": "hidden-state MSE",
}
MOST_STEPS = 12  # of a training curve that are written as numbers


def few_shot(run: Run) -> list[Block]:
    """Scores over the number of training examples: averages, and each task; nothing where no method has two numbers
    of them.
    """
    columns = run.columns()
    methods = list(dict.fromkeys(m for m, _ in columns))
    shots = sorted({s for _, s in columns}, key=shots_value)
    if len(shots) < 2 or run.role != "target":
        return []
    averages = run.averages()
    whole = [
        _series(m, methods, shots, {s: _average_point(run, m, s, v) for s, v in averages.get(m, {}).items()})
        for m in methods
    ]
    charts = [
        lines("average of targets", [s for s in whole if s.points], shots, "training examples", "score", width=360)
    ]
    for name, task in run.tasks.items():
        one = [
            _series(m, methods, shots, {s: _task_point(m, s, c) for s, c in task["methods"].get(m, {}).items()})
            for m in methods
        ]
        charts.append(lines(name, [s for s in one if s.points], shots, "training examples", task["metric"]))
    numbers = Table(["method", *shots], [[m, *_spread(run, m, shots)] for m in methods])
    caption = "Averages over the targets, with half the 95 % interval over seeds (Student's t) where there are several."
    colours = (
        "Bars: these intervals, cut at 0 and 1. The numbers of examples are not to scale. The written instruction "
        "takes no examples: a line across."
    )
    return [Figure("Scores over training examples", charts, caption, colours, _keys(methods), numbers)]


def _spread(run: Run, method: str, shots: Sequence[str]) -> list[str]:
    out = []
    for s in shots:
        mean, seeds = run.averages().get(method, {}).get(s), by_seed(run.tasks, method, s)
        half = student(list(seeds.values()))[1] if seeds else None
        out.append("" if mean is None else f"{mean:.3f}" + ("" if half is None else f" ± {half:.3f}"))
    return out


def _series(method: str, methods: Sequence[str], shots: Sequence[str], points: Mapping[str, Point]) -> Series:
    placed = [replace(points[s], x=shots.index(s)) for s in shots if s in points]
    return Series(method, style_of(method, methods), placed, method == "instruction")


def _average_point(run: Run, method: str, shots: str, value: float) -> Point:
    seeds = by_seed(run.tasks, method, shots)
    half = student(list(seeds.values()))[1] if seeds else None
    low, high = (None, None) if half is None else (max(value - half, 0.0), min(value + half, 1.0))
    return Point(
        0, value, low, high, f"{method}, {shots} examples: {value:.3f}" + ("" if half is None else f" ± {half:.3f}")
    )


def _task_point(method: str, shots: str, cell: Mapping[str, Any]) -> Point:
    low, high = (max(cell["ci95"][0], 0.0), min(cell["ci95"][1], 1.0)) if cell["ci95"] else (None, None)
    return Point(0, cell["mean"], low, high, f"{method}, {shots} examples: {cell['mean']:.3f}")


def _keys(methods: Sequence[str], line: bool = True) -> list[tuple[Any, str]]:
    return [(key(style_of(m, methods), line), m) for m in methods]


def by_run(runs: Sequence[Run]) -> list[Block]:
    """The metaprompt's averages of several runs, a line each."""
    shots = sorted({s for r in runs for s in r.averages().get("metaprompt", {})}, key=shots_value)
    found = [r for r in runs if r.role == "target" and r.averages().get("metaprompt")]
    if len(found) < 2 or len(shots) < 2:
        return []
    series = []
    for number, run in enumerate(found):
        points = {s: _average_point(run, run.name, s, v) for s, v in run.averages()["metaprompt"].items()}
        placed = [replace(points[s], x=shots.index(s)) for s in shots if s in points]
        series.append(Series(run.name, Style(number % 8, number % 6, number > 7), placed))
    keys = [(key(s.style), s.name) for s in series]
    numbers = Table(["run", *shots], [[r.name, *_spread(r, "metaprompt", shots)] for r in found])
    return [
        Figure(
            "The metaprompt, by run",
            [lines("average of targets", series, shots, "training examples", width=360)],
            "",
            "",
            keys,
            numbers,
        )
    ]


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
        marks = []
        for name, d in rows:
            ends = tuple(d["interval"]) if d.get("interval") else None
            told = f"{name}: {d['difference']:+.3f}" + (
                f", 95 % interval {ends[0]:+.3f} to {ends[1]:+.3f}" if ends else ""
            )
            marks.append((name, d["difference"], ends, told))
        drawn.append(forest(heading, marks, x_title))
    colours = "Lines: 95 % intervals. Blue: above 0, orange: below it, grey: it holds 0, or there is none."
    return Figure(title, drawn, caption, colours, (), numbers)


def transfer(run: Run) -> list[Block]:
    """Sources x targets, of the variants adapted from one source's factors alone; a matrix for each number of
    examples.
    """
    columns, targets = run.columns(transfer=True), list(run.tasks)
    charts, rows = [], []
    for shots in dict.fromkeys(s for _, s in sorted(columns, key=lambda c: shots_value(c[1]))):
        variants = [m for m, s in columns if s == shots]
        names = [*(source_of(m) for m in variants), "all sources"]
        values = [
            [task["methods"].get(m, {}).get(shots, {}).get("mean") for task in run.tasks.values()]
            for m in (*variants, "metaprompt")
        ]
        base = values[-1]
        gains = [[None if v is None or b is None else v - b for v, b in zip(row, base, strict=True)] for row in values]
        most = max([0.02, *(abs(g) for row in gains for g in row if g is not None)])
        tints = [[(g or 0.0) / most for g in row] for row in gains]
        told = [
            [_heat_words(n, t, v, b) for t, v, b in zip(targets, row, base, strict=True)]
            for n, row in zip(names, values, strict=True)
        ]
        title = f"{shots if shots != 'full' else 'all'} examples"
        charts.append(heat(title, names, targets, values, tints, told))
        rows += [
            [n, shots, *("" if v is None else f"{v:.3f}" for v in row)] for n, row in zip(names, values, strict=True)
        ]
    if not rows:
        return []
    caption = "Score on a target (column) of prompts adapted from one source task's factors (row)."
    colours = "Blue: better than from all sources (last row), orange: worse; each matrix has its own strongest tint."
    return [
        Figure(
            "Which source helps which target",
            charts,
            caption,
            colours,
            (),
            Table(["source", "shots", *targets], rows, 2),
        )
    ]


def _heat_words(source: str, target: str, value: float | None, base: float | None) -> str:
    if value is None:
        return f"{source} to {target}: not scored"
    return f"{source} to {target}: {value:.3f}" + ("" if base is None else f" ({value - base:+.3f} to all sources)")


def cost(run: Run) -> list[Block]:
    """Average score against trainable numbers, tokens and device hours; what was not recorded is left out."""
    averages, found, methods = (
        run.averages(),
        run.results.get("cost", {}),
        list(dict.fromkeys(m for m, _ in run.columns())),
    )
    counts = {m: v["count"] for m, v in run.results["trainable"].get("methods", {}).items()}
    rows, charts = [], []
    for m, s in run.columns():
        if s in averages.get(m, {}) and (m in counts or s in found.get(m, {})):
            spent = found.get(m, {}).get(s, {})
            count, tokens, hours = counts.get(m), spent.get("tokens"), spent.get("device_hours")
            rows.append((m, s, averages[m][s], count, tokens, hours))
    for title, place in (("trainable numbers of one task", 3), ("tokens trained on", 4), ("device hours", 5)):
        series = []
        for m in methods:
            points = [
                Point(r[place], r[2], told=f"{m}, {r[1]} examples: {r[2]:.3f} at {r[place]:,.4g} {title}", label=r[1])  # type: ignore[arg-type]
                for r in rows
                if r[0] == m and r[place]
            ]
            series.append(Series(m, style_of(m, methods), points))
        if any(s.points for s in series):
            charts.append(
                lines(f"score against {title}", [s for s in series if s.points], (), title, log_x=True, joined=False)
            )
    if not charts:
        return []
    shown = Table(
        ["method", "shots", "average score", "trainable numbers", "tokens of a row", "device hours of a row"],
        [
            [
                m,
                s,
                f"{v:.3f}",
                *("" if c is None else f.format(c) for c, f in zip(rest, ("{:,}", "{:,.0f}", "{:.3g}"), strict=True)),
            ]
            for m, s, v, *rest in rows
        ],
        2,
    )
    caption = (
        "Average over the tasks. Numbers trained for one adapted task; a row's own tokens, and its share (by tokens) of the devices' time in the "
        "shared pass. The distillation before it is not in it."
    )
    keys = _keys([m for m in methods if any(r[0] == m for r in rows)], False)
    return [Figure("Score against what it took", charts, caption, "Small words: numbers of examples.", keys, shown)]


def sweeps(run: Run) -> list[Block]:
    """Validation scores of every learning rate that was tried."""
    tuning = run.results.get("tuning") or {}
    methods = list(tuning)
    shots = sorted({s for by in tuning.values() for s in by}, key=shots_value)
    charts, rows = [], []
    for s in shots:
        series = []
        for m in methods:
            cell = tuning[m].get(s)
            if not cell:
                continue
            points = []
            for n, (rate, score) in enumerate(zip(cell["rates"], cell["scores"], strict=True)):
                best = n == cell["best"]
                rows.append(
                    [m, s, _rate_words(rate), Cell(f"{score:.3f}", "chosen" if best else "", "good" if best else "")]
                )
                points.append(
                    Point(_rate(rate), score, told=f"{m}, rate {_rate_words(rate)}: {score:.3f}", ringed=best)
                )
            series.append(Series(m, style_of(m, methods), sorted(points, key=lambda p: p.x)))
        charts.append(lines(f"{s} examples", series, (), "learning rate", "validation score", log_x=True))
    if not rows:
        return []
    caption = (
        "Mean validation score over the targets; the best of each method and number of examples was used on test data, that of the nearest number where "
        "none was tried."
    )
    numbers = Table(["method", "shots", "learning rate", "validation score"], rows, 2)
    return [Figure("What was tried on validation data", charts, caption, "Ringed: the best.", _keys(methods), numbers)]


def _rate(rate: Any) -> float:
    return float(next(iter(rate.values())) if isinstance(rate, dict) else rate)


def _rate_words(rate: Any) -> str:
    return ", ".join(f"{k} {v:g}" for k, v in rate.items()) if isinstance(rate, dict) else f"{rate:g}"


def training(run: Run) -> list[Block]:
    """Losses as they were logged, of the run and of its teachers and sweeps."""
    charts, rows, drawn = [], [], set()
    for name, steps in run.curves.items():
        series = []
        for term, colour in LOSSES.items():
            points = [
                Point(s["step"], s[term])
                for s in steps
                if isinstance(s.get(term), int | float) and math.isfinite(s[term])
            ]
            if (
                points
                and any(p.y for p in points)
                and not (term == "ce" and all(s.get("loss") == s.get("ce") for s in steps))
            ):
                series.append(Series(term, Style(colour, colour, colour > 0), points))
        where = name or "this run"
        positive = [p.y for s in series for p in s.points if p.y > 0]
        wide = bool(positive) and max(positive) / min(positive) > 30
        charts.append(
            lines(where, series, (), "step", "loss" + (", logarithmic" if wide else ""), log_y=wide, whole_x=True)
        )
        drawn |= {s.name for s in series}
        every = steps[:: math.ceil(len(steps) / MOST_STEPS)]
        for s in every if every[-1] is steps[-1] else [*every, steps[-1]]:
            rows.append(
                [
                    where,
                    str(s["step"]),
                    *(
                        f"{s[t]:.4g}" if isinstance(s.get(t), int | float) else ""
                        for t in (*LOSSES, "lr", "tokens_per_s")
                    ),
                ]
            )
    if not rows:
        return []
    keys = [(key(Style(c, c, c > 0)), LOSS_WORDS[t]) for t, c in LOSSES.items() if t in drawn]
    caption = f"From metrics.jsonl; of each curve at most {MOST_STEPS + 1} steps are written out."
    numbers = Table(["of", "step", *LOSSES, "learning rate", "tokens a second"], rows, 1)
    return [Figure("Losses as they were logged", [c for c in charts if c], caption, "", keys, numbers)]


def prompt_geometry(run: Run, found: Geometry, words: Sequence[Sequence[tuple[str, float]]] | None) -> list[Block]:
    """Principal components and cosines of prompts; nearest vocabulary entries where they were asked for."""
    methods = list(dict.fromkeys(row["method"] for row in found.labels))
    names = [f"{n}  {_prompt_name(row, len(methods) > 1)}" for n, row in enumerate(found.labels, 1)]
    types = [run.tasks.get(row["task"], {}).get("type", "") for row in found.labels]
    series = []
    for m in methods:
        for kind in dict.fromkeys(types):
            chosen = [k for k, row in enumerate(found.labels) if row["method"] == m and types[k] == kind]
            points = [
                Point(float(found.places[k, 0]), float(found.places[k, 1]), told=names[k], label=str(k + 1))
                for k in chosen
            ]
            series.append(Series(f"{kind or 'P*'} {m}", Style(TYPES.get(kind, 7), methods.index(m)), points))
    keys = [(key(Style(TYPES.get(t, 7), 0), False), t or "P* (the metaprompt)") for t in dict.fromkeys(types)]
    keys += [(key(Style(7, n), False), f"mark: {m}") for n, m in enumerate(methods)] if len(methods) > 1 else []
    colours = "Right: cosine of every two prompts; columns bear the rows' numbers; blue: towards 1, orange: below 0."
    axes = [f"component {n} ({100 * share:.0f} %)" for n, share in enumerate(found.shares, 1)]
    plane = lines(
        "principal components", [s for s in series if s.points], (), axes[0], axes[1], joined=False, width=360
    )
    values = found.cosines.tolist()
    told = [
        [f"{a} and {b}: {v:.3f}" for b, v in zip(names, row, strict=True)] for a, row in zip(names, values, strict=True)
    ]
    numbers = [str(n) for n in range(1, len(names) + 1)]
    matrix = heat(
        "cosines of prompts", names, numbers, values, values, told, 30 if len(names) < 16 else 20, len(names) < 16
    )
    left = f" Left out: {', '.join(f'{n} rows {why}' for why, n in found.left_out.items())}." if found.left_out else ""
    size = f"{found.prompts.shape[1]} x {found.prompts.shape[2]}"
    caption = f"Prompts as they are fed to the backbone, flattened ({size}); of every task and method one row.{left}"
    upper = [values[i][j] for i in range(len(values)) for j in range(i)]
    rows = [
        [n, f"{found.places[k, 0]:.3g}", f"{found.places[k, 1]:.3g}", f"{np.delete(found.cosines[k], k).max():.3f}"]
        for k, n in enumerate(names)
    ]
    table = Table(["prompt", axes[0], axes[1], "largest cosine to another"], rows)
    out: list[Block] = [
        Figure(
            "Where the prompts lie",
            [plane, matrix],
            f"{caption} Mean cosine of two prompts: {np.mean(upper):.3f}.",
            colours,
            keys,
            table,
        )
    ]
    if words is not None:
        warning = (
            "A prompt is derived from its corpus and can leak it: the entries below are to be protected like the notes. They are the nearest by "
            "cosine, which does not make them the prompt's meaning."
        )
        listed = [
            [n, f"{np.mean([v for _, v in row]):.3f}", " · ".join(w for w, _ in row)]
            for n, row in zip(names, words, strict=True)
        ]
        shown = Table(["prompt", "mean cosine", "nearest entry of each virtual token"], listed, 3)
        out.append(Section("Nearest vocabulary entries", [Text(warning, "warning"), shown], level=4))
    return out


def _prompt_name(row: Mapping[str, Any], with_method: bool) -> str:
    words = [
        row["task"],
        *([row["method"]] if with_method else []),
        *([row["shots"]] if row["shots"] not in ("", "full") else []),
    ]
    return " ".join(words)
