"""The figure of where prompts lie, with the numbers it was drawn from and, on request, the entries nearest to them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from engine.reporting.blocks import Block, Figure, Section, Table, Text
from engine.reporting.data import Run
from engine.reporting.figures.charts import heat, lines
from engine.reporting.figures.marks import Point, Series, Style, key
from engine.reporting.geometry import Geometry
from engine.reporting.words import significant
from strict_yaml import counted

TYPES = {"ner": 0, "re": 1, "qa": 2, "nli": 3, "summarization": 4}
OTHER = 7  # colour of the metaprompt, which has no type
MANY = 16  # prompts from which on a matrix has smaller cells, without their numbers


def prompt_geometry(run: Run, found: Geometry, words: Sequence[Sequence[tuple[str, float]]] | None) -> list[Block]:
    """Principal components and cosines of prompts; nearest vocabulary entries where they were asked for."""
    methods = list(dict.fromkeys(row["method"] for row in found.labels))
    types = [run.tasks.get(row["task"], {}).get("type", "") for row in found.labels]
    names = []
    for number, row in enumerate(found.labels, 1):
        names.append(f"{number}  {_prompt_name(row, len(methods) > 1)}")
    axes = [f"component {n} ({100 * share:.0f} %)" for n, share in enumerate(found.shares, 1)]
    charts = [_plane(found, names, methods, types, axes), _cosine_matrix(found, names)]
    colours = "Right: cosine of every two prompts; columns bear the rows' numbers; blue: towards 1, orange: below 0."
    numbers = _places(found, names, axes)
    title = "Where the prompts lie"
    out: list[Block] = [Figure(title, charts, _caption(found), colours, _keys(methods, types), numbers)]
    if words is not None:
        out.append(_nearest(names, words))
    return out


def _prompt_name(row: Mapping[str, Any], with_method: bool) -> str:
    words = [row["task"]]
    if with_method:
        words.append(row["method"])
    if row["shots"] not in ("", "full"):
        words.append(row["shots"])
    return " ".join(words)


def _plane(
    found: Geometry, names: Sequence[str], methods: Sequence[str], types: Sequence[str], axes: Sequence[str]
) -> Markup:
    """The first two components: a colour for each type of task, a mark for each method."""
    points: dict[tuple[str, str], list[Point]] = {}
    for k, (row, kind) in enumerate(zip(found.labels, types, strict=True)):
        x, y = found.places[k].tolist()
        points.setdefault((row["method"], kind), []).append(Point(x, y, told=names[k], label=str(k + 1)))
    series = []
    for number, method in enumerate(methods):
        for kind in dict.fromkeys(types):
            if (method, kind) in points:
                style = Style(TYPES.get(kind, OTHER), number)
                series.append(Series(f"{kind or 'P*'} {method}", style, points[method, kind]))
    return lines("principal components", series, (), axes[0], axes[1], joined=False, width=360)


def _keys(methods: Sequence[str], types: Sequence[str]) -> list[tuple[Markup, str]]:
    out = []
    for kind in dict.fromkeys(types):
        out.append((key(Style(TYPES.get(kind, OTHER), 0), False), kind or "P* (the metaprompt)"))
    if len(methods) > 1:
        for number, method in enumerate(methods):
            out.append((key(Style(OTHER, number), False), f"mark: {method}"))
    return out


def _cosine_matrix(found: Geometry, names: Sequence[str]) -> Markup:
    values, few = found.cosines.tolist(), len(names) < MANY
    told = []
    for name, row in zip(names, values, strict=True):
        told.append([f"{name} and {other}: {value:.3f}" for other, value in zip(names, row, strict=True)])
    numbers = [str(n) for n in range(1, len(names) + 1)]
    return heat(
        "cosines of prompts",
        row_names=names,
        column_names=numbers,
        values=values,
        tints=values,
        told=told,
        side=30 if few else 20,
        written=few,
    )


def _caption(found: Geometry) -> str:
    _, length, width = found.prompts.shape
    out = f"Prompts as they are fed to the backbone, flattened ({length} x {width}); of every task and method one row."
    if found.left_out:
        left_out = ", ".join(f"{counted(n, 'row')} {why}" for why, n in found.left_out.items())
        out += f" Left out: {left_out}."
    pairs = found.cosines[np.tril_indices(len(found.cosines), -1)]
    return f"{out} Mean cosine of two prompts: {pairs.mean():.3f}."


def _places(found: Geometry, names: Sequence[str], axes: Sequence[str]) -> Table:
    rows = []
    for k, name in enumerate(names):
        x, y = found.places[k]
        largest = np.delete(found.cosines[k], k).max()
        rows.append([name, significant(x, 3), significant(y, 3), f"{largest:.3f}"])
    return Table(["prompt", axes[0], axes[1], "largest cosine to another"], rows)


def _nearest(names: Sequence[str], words: Sequence[Sequence[tuple[str, float]]]) -> Section:
    warning = (
        "A prompt is derived from its corpus and can leak it: the entries below are to be protected like the notes. "
        "They are the nearest by cosine, which does not make them the prompt's meaning."
    )
    rows = []
    for name, found in zip(names, words, strict=True):
        entries, values = zip(*found, strict=True)
        rows.append([name, f"{np.mean(values):.3f}", " · ".join(entries)])
    shown = Table(["prompt", "mean cosine", "nearest entry of each virtual token"], rows, 3)
    return Section("Nearest vocabulary entries", [Text(warning, "warning"), shown], level=4)
