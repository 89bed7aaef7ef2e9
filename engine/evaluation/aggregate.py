"""results.json: scores of rows -> task, method, shots -> mean, spread, seeds, intervals over documents, labels.
Scores are fractions 0-1.
"""

import datetime
import platform
import statistics
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from typing import Any

import numpy as np

from clinical_tasks import interval

# two-sided 95 % quantiles of Student's t, of 1 to 30 degrees of freedom
# fmt: off
T95_VALUES = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
    2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086,
    2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)
# fmt: on
T95 = dict(enumerate(T95_VALUES, 1))
T95_LARGE = 1.96

OUR_METHOD = "metaprompt"  # every other method is compared with it
LIBRARIES = ("torch", "deepspeed", "transformers", "datasets", "safetensors", "sentencepiece", "numpy", "rouge-score")


def summarise(
    scored: Sequence[dict[str, Any]], cards: Mapping[str, Any], n_test: Mapping[str, int], role: str
) -> dict[str, Any]:
    """Group rows (task, method, shots, seed, scores, best_step, n_dropped, n_truncated) into the contract's ``tasks``
    and ``average``.

    Rows may bring what ``clinical_tasks.evaluate`` returns beside the scores: replicates, labels, resampling.
    """
    tasks: dict[str, Any] = {}
    for row in scored:
        card = cards[row["task"]]
        empty = {"type": card.type, "role": role, "metric": card.metric, "n_test": n_test[card.name], "methods": {}}
        task = tasks.setdefault(card.name, empty)
        if row.get("resampling"):
            task["resampling"] = row["resampling"]
        task["methods"].setdefault(row["method"], {}).setdefault(row["shots"], []).append(row)
    for name, task in tasks.items():
        pairs = _paired(task["methods"], cards[name].metric)
        if pairs:
            task["paired"] = pairs
        for shots_of in task["methods"].values():
            for shots, rows in shots_of.items():
                shots_of[shots] = _cell(rows, cards[name].metric)
    return {"tasks": tasks, "average": average(tasks)}


def _cell(rows: Sequence[dict[str, Any]], metric: str) -> dict[str, Any]:
    """One method at one number of shots, over its seeds."""
    values = _scores(rows, metric)
    mean, half = student(values)
    return {
        "mean": mean,
        "std": statistics.stdev(values) if len(values) > 1 else None,
        "ci95": interval_around(mean, half),
        "seeds": _column(rows, "seed"),
        "values": values,
        "steps": _column(rows, "best_step"),
        "scores": _means(_column(rows, "scores")),
        "n_dropped": rows[0]["n_dropped"],
        "n_truncated": _column(rows, "n_truncated"),
        **_examples(rows),
        **_intervals(rows),
        **_labels(rows),
    }


def _scores(rows: Sequence[Mapping[str, Any]], metric: str) -> list[float]:
    return [row["scores"][metric] for row in rows]


def _column(rows: Sequence[Mapping[str, Any]], key: str) -> list[Any]:
    return [row[key] for row in rows]


def _means(tables: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Of each key of the first table, the mean over all tables."""
    return {key: statistics.fmean(_column(tables, key)) for key in tables[0]}


def interval_around(mean: float, half: float | None) -> list[float] | None:
    """Both ends; None without a half width."""
    return None if half is None else [mean - half, mean + half]


def _examples(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Of in-context rows, by seed: solved examples that did not fit, over all contexts; the most and fewest that a
    context holds.
    """
    keys = ("n_examples_left_out", "n_examples_most", "n_examples_fewest")
    return {key: _column(rows, key) for key in keys if key in rows[0]}


def _intervals(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Over documents, of each metric's mean over seeds: resample by resample, for every seed was scored on the same
    documents.
    """
    drawn: list[dict[str, Any]] = [r.get("replicates", {}) for r in rows]
    if not all(drawn):
        return {}
    intervals = {}
    for metric in drawn[0]:
        means = np.mean(_column(drawn, metric), axis=0)
        intervals[metric] = list(interval(means))
    return {"intervals": intervals}


def _paired(methods: Mapping[str, Mapping[str, Sequence[dict[str, Any]]]], metric: str) -> dict[str, Any]:
    """``metaprompt-OTHER`` -> SHOTS -> difference of the means over seeds, its interval and two-sided p over resampled
    documents.

    Both sides are drawn alike, so the difference is taken resample by resample: what makes a document hard for both
    drops out. Absent where a side has no resamples.
    """
    out: dict[str, Any] = {}
    for other, by_shots in methods.items():
        if other == OUR_METHOD:
            continue
        for shots, rows in by_shots.items():
            cell = _paired_cell(methods.get(OUR_METHOD, {}).get(shots, []), rows, metric)
            if cell is not None:
                out.setdefault(f"{OUR_METHOD}-{other}", {})[shots] = cell
    return out


def _paired_cell(
    our_rows: Sequence[dict[str, Any]], their_rows: Sequence[dict[str, Any]], metric: str
) -> dict[str, Any] | None:
    """None where a row of either side has no resamples, or another number of them than the others."""
    ours, theirs = _replicates(our_rows, metric), _replicates(their_rows, metric)
    if not ours or not theirs or len({len(drawn) for drawn in (*ours, *theirs)}) != 1:
        return None
    differences = np.mean(ours, axis=0) - np.mean(theirs, axis=0)
    return {
        "difference": statistics.fmean(_scores(our_rows, metric)) - statistics.fmean(_scores(their_rows, metric)),
        "interval": list(interval(differences)),
        "p": two_sided(differences),
    }


def _replicates(rows: Sequence[dict[str, Any]], metric: str) -> list[Any]:
    """Each row's resampled scores; empty where a row has none."""
    found = []
    for row in rows:
        if metric not in row.get("replicates", {}):
            return []
        found.append(row["replicates"][metric])
    return found


def two_sided(differences: np.ndarray) -> float:
    """The bootstrap p of no difference: twice the share of resamples on the rarer side of zero; zeros stand on
    both, the data count as one more.
    """
    tail = min((differences <= 0).sum(), (differences >= 0).sum())
    return float(min(1.0, 2 * (tail + 1) / (len(differences) + 1)))


def _labels(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Each label's numbers, mean over the seeds that have the label."""
    found: dict[str, list[dict[str, float]]] = {}
    for row in rows:
        for name, numbers in (row.get("labels") or {}).items():
            found.setdefault(name, []).append(numbers)
    if not found:
        return {}
    return {"labels": {name: _means(each) for name, each in found.items()}}


def average(tasks: Mapping[str, Any], role: str = "target") -> dict[str, dict[str, float]]:
    """METHOD -> SHOTS -> mean over target tasks, only where every target task has the cell: a mean over others
    would not compare.
    """
    targets = _of_role(tasks, role)
    out: dict[str, dict[str, float]] = {}
    for method, shots in sorted(cells_of(targets)):
        means = [task["methods"].get(method, {}).get(shots, {}).get("mean") for task in targets]
        if None not in means:
            out.setdefault(method, {})[shots] = statistics.fmean(means)
    return out


def _of_role(tasks: Mapping[str, Any], role: str) -> list[Any]:
    return [task for task in tasks.values() if task["role"] == role]


def cells_of(tasks: Iterable[Mapping[str, Any]]) -> set[tuple[str, str]]:
    """Every (method, shots) that any of the tasks has."""
    found = set()
    for task in tasks:
        for method, by_shots in task["methods"].items():
            for shots in by_shots:
                found.add((method, shots))
    return found


def by_seed(tasks: Mapping[str, Any], method: str, shots: str) -> dict[int, float]:
    """Seed -> mean over target tasks, of the seeds that every target was scored with; empty where a target lacks
    the cell.
    """
    values: dict[int, list[float]] = {}
    targets = _of_role(tasks, "target")
    for task in targets:
        cell = task["methods"].get(method, {}).get(shots)
        if cell is None or "values" not in cell:
            return {}
        for seed, value in zip(cell["seeds"], cell["values"], strict=True):
            values.setdefault(seed, []).append(value)
    return {seed: statistics.fmean(found) for seed, found in values.items() if len(found) == len(targets)}


def student(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean, and half its 95 % interval by Student's t; None of one value."""
    n, mean = len(values), statistics.fmean(values)
    if n < 2:
        return mean, None
    return mean, T95.get(n - 1, T95_LARGE) * statistics.stdev(values) / n**0.5


def paired_over_targets(tasks: Mapping[str, Any], other: str, shots: str) -> dict[str, Any] | None:
    """The metaprompt minus ``other``, averaged over the targets, paired by seed (same few-shot examples); won, lost and
    tied targets.

    A method that no seed changes (the written instruction) is set against every seed. None where either lacks a target.
    """
    ours, theirs = by_seed(tasks, OUR_METHOD, shots), by_seed(tasks, other, shots)
    if other == "instruction" and len(theirs) == 1:
        theirs = dict.fromkeys(ours, next(iter(theirs.values())))
    differences = {seed: ours[seed] - theirs[seed] for seed in ours if seed in theirs}
    if not differences:
        return None
    mean, half = student(list(differences.values()))
    gains = []
    for task in _of_role(tasks, "target"):
        methods = task["methods"]
        gains.append(np.sign(methods[OUR_METHOD][shots]["mean"] - methods[other][shots]["mean"]))
    return {
        "difference": mean,
        "interval": interval_around(mean, half),
        "seeds": list(differences),
        "won": gains.count(1),
        "lost": gains.count(-1),
        "tied": gains.count(0),
    }


def identities(hashes: Mapping[str, Any]) -> dict[str, str]:
    """Of a checkpoint's hashes those that name something (data, backbone, layout, teachers, sources.METHOD), not
    the settings.
    """
    out = {}
    for name, value in hashes.items():
        if isinstance(value, str) and value:
            out[name] = value
    sources = hashes.get("sources")
    if isinstance(sources, dict):
        for method, value in sources.items():
            if isinstance(value, str):
                out[f"sources.{method}"] = value
    return out


def made_with() -> dict[str, Any]:
    """The date (UTC) and the versions of what computes."""
    versions = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {"date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"), "versions": versions}
