"""results.json: scores of rows -> task, method, shots -> mean, spread, seeds, intervals over documents, labels.
Scores are fractions 0-1.
"""

import datetime
import platform
import statistics
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any

import numpy as np

from clinical_tasks import interval

# two-sided 95 % quantiles of Student's t by degrees of freedom
T95 = dict(
    enumerate(
        (
            12.706,
            4.303,
            3.182,
            2.776,
            2.571,
            2.447,
            2.365,
            2.306,
            2.262,
            2.228,
            2.201,
            2.179,
            2.160,
            2.145,
            2.131,
            2.120,
            2.110,
            2.101,
            2.093,
            2.086,
            2.080,
            2.074,
            2.069,
            2.064,
            2.060,
            2.056,
            2.052,
            2.048,
            2.045,
            2.042,
        ),
        1,
    )
)
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
    values = [r["scores"][metric] for r in rows]
    mean, n = statistics.fmean(values), len(values)
    std = statistics.stdev(values) if n > 1 else None
    half = T95.get(n - 1, T95_LARGE) * std / n**0.5 if std is not None else None
    return {
        "mean": mean,
        "std": std,
        "ci95": None if half is None else [mean - half, mean + half],
        "seeds": [r["seed"] for r in rows],
        "values": values,
        "steps": [r["best_step"] for r in rows],
        "scores": {m: statistics.fmean(r["scores"][m] for r in rows) for m in rows[0]["scores"]},
        "n_dropped": rows[0]["n_dropped"],
        "n_truncated": [r["n_truncated"] for r in rows],
        **_examples(rows),
        **_intervals(rows),
        **_labels(rows),
    }


def _examples(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Of in-context rows, by seed: solved examples that did not fit, over all contexts; the most and fewest that a
    context holds.
    """
    return {
        k: [r[k] for r in rows] for k in ("n_examples_left_out", "n_examples_most", "n_examples_fewest") if k in rows[0]
    }


def _intervals(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Over documents, of each metric's mean over seeds: resample by resample, for every seed was scored on the same
    documents.
    """
    drawn: list[dict[str, Any]] = [r.get("replicates", {}) for r in rows]
    if not all(drawn):
        return {}
    return {"intervals": {m: list(interval(np.mean([d[m] for d in drawn], axis=0))) for m in drawn[0]}}


def _paired(methods: Mapping[str, Mapping[str, Sequence[dict[str, Any]]]], metric: str) -> dict[str, Any]:
    """``metaprompt-OTHER`` -> SHOTS -> difference of the means over seeds, its interval and two-sided p over resampled
    documents.

    Both sides are drawn alike, so the difference is taken resample by resample: what makes a document hard for both
    drops out. Absent where a side has no resamples.
    """
    out: dict[str, Any] = {}
    for other, by in methods.items():
        for shots in by if other != OUR_METHOD else ():
            sides = [methods.get(OUR_METHOD, {}).get(shots, []), by[shots]]
            drawn = [[r["replicates"][metric] for r in rows if metric in r.get("replicates", {})] for rows in sides]
            if (
                not all(rows and len(d) == len(rows) for rows, d in zip(sides, drawn, strict=True))
                or len({len(d) for side in drawn for d in side}) != 1
            ):
                continue
            ours, theirs = (statistics.fmean(r["scores"][metric] for r in rows) for rows in sides)
            differences = np.mean(drawn[0], axis=0) - np.mean(drawn[1], axis=0)
            cell = {"difference": ours - theirs, "interval": list(interval(differences)), "p": two_sided(differences)}
            out.setdefault(f"{OUR_METHOD}-{other}", {})[shots] = cell
    return out


def two_sided(differences: np.ndarray) -> float:
    """The bootstrap p of no difference: twice the share of resamples on the rarer side of zero; zeros stand on
    both, the data count as one more.
    """
    tail = min((differences <= 0).sum(), (differences >= 0).sum())
    return float(min(1.0, 2 * (tail + 1) / (len(differences) + 1)))


def _labels(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Each label's numbers, mean over the seeds that have the label."""
    tables = [r.get("labels") or {} for r in rows]
    names = dict.fromkeys(name for table in tables for name in table)
    found = {name: [table[name] for table in tables if name in table] for name in names}
    return (
        {"labels": {n: {k: statistics.fmean(v[k] for v in each) for k in each[0]} for n, each in found.items()}}
        if names
        else {}
    )


def average(tasks: Mapping[str, Any], role: str = "target") -> dict[str, dict[str, float]]:
    """METHOD -> SHOTS -> mean over target tasks, only where every target task has the cell: a mean over others
    would not compare.
    """
    targets = [t for t in tasks.values() if t["role"] == role]
    out: dict[str, dict[str, float]] = {}
    cells = {(m, s) for t in targets for m, by in t["methods"].items() for s in by}
    for method, shots in sorted(cells):
        means = [t["methods"].get(method, {}).get(shots, {}).get("mean") for t in targets]
        if all(m is not None for m in means):
            out.setdefault(method, {})[shots] = statistics.fmean(means)
    return out


def by_seed(tasks: Mapping[str, Any], method: str, shots: str) -> dict[int, float]:
    """Seed -> mean over target tasks, of the seeds that every target was scored with; empty where a target lacks
    the cell.
    """
    cells = [t["methods"].get(method, {}).get(shots) for t in tasks.values() if t["role"] == "target"]
    if not cells or any(c is None or "values" not in c for c in cells):
        return {}
    values = [dict(zip(c["seeds"], c["values"], strict=True)) for c in cells if c]
    return {seed: statistics.fmean(v[seed] for v in values) for seed in values[0] if all(seed in v for v in values)}


def student(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean, and half its 95 % interval by Student's t; None of one value."""
    half = (
        T95.get(len(values) - 1, T95_LARGE) * statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else None
    )
    return statistics.fmean(values), half


def paired_over_targets(tasks: Mapping[str, Any], other: str, shots: str) -> dict[str, Any] | None:
    """The metaprompt minus ``other``, averaged over the targets, paired by seed (same few-shot examples); won, lost and
    tied targets.

    A method that no seed changes (the written instruction) is set against every seed. None where either lacks a target.
    """
    ours, theirs = by_seed(tasks, OUR_METHOD, shots), by_seed(tasks, other, shots)
    if other == "instruction" and len(theirs) == 1:
        theirs = dict.fromkeys(ours, next(iter(theirs.values())))
    seeds = [s for s in ours if s in theirs]
    if not seeds:
        return None
    mean, half = student([ours[s] - theirs[s] for s in seeds])
    cells = [
        (t["methods"][OUR_METHOD][shots]["mean"], t["methods"][other][shots]["mean"])
        for t in tasks.values()
        if t["role"] == "target"
    ]
    return {
        "difference": mean,
        "interval": None if half is None else [mean - half, mean + half],
        "seeds": seeds,
        "won": sum(a > b for a, b in cells),
        "lost": sum(a < b for a, b in cells),
        "tied": sum(a == b for a, b in cells),
    }


def identities(hashes: Mapping[str, Any]) -> dict[str, str]:
    """Of a checkpoint's hashes those that name something (data, backbone, layout, teachers, sources.METHOD), not
    the settings.
    """
    out = {k: v for k, v in hashes.items() if isinstance(v, str) and v}
    sources = hashes.get("sources")
    return out | (
        {f"sources.{k}": v for k, v in sources.items() if isinstance(v, str)} if isinstance(sources, dict) else {}
    )


def made_with() -> dict[str, Any]:
    """The date (UTC) and the versions of what computes."""
    versions = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {"date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"), "versions": versions}
