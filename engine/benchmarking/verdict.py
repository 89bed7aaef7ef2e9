"""Whether steps became slower: the ratio of each metric with its interval, and what that says.

Steps of equal number did equal work in both (same seed, same samples), so ratios are taken step by step where their
tokens agree, and of the two medians where they do not. The interval is the 95 % one of a bootstrap. It knows the spread
within each run and nothing of what differs from run to run: a difference below TOLERANCE is never called one, and where
a matrix product of a fixed size, timed before each step, takes longer too (lower clocks, busier neighbours), a step is
called slower only for what that does not explain.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from engine.core import markdown_table

RESAMPLES, LEAST_STEPS, TOLERANCE = 4000, 5, 0.02
MACHINE = "slower, and so is the machine"
SLOWER, FASTER, SAME, FEW = (
    "slower beyond the spread",
    "faster",
    "no difference that this many steps can show",
    "too few steps to tell",
)
SINGLE = ("peak_gpu_bytes", "peak_host_bytes", "load_seconds", "h2d_bytes_per_step")


@dataclass(frozen=True)
class Line:
    """One metric of a case: medians, new over old with its interval (none of single numbers), and what that says."""

    case: str
    metric: str
    old: float
    new: float
    ratio: float
    interval: tuple[float, float] | None
    says: str


@dataclass(frozen=True)
class Verdict:
    lines: list[Line]
    notes: list[str]

    @property
    def slower(self) -> bool:
        return any(line.metric == "step_seconds" and line.says == SLOWER for line in self.lines)

    @property
    def headline(self) -> str:
        steps = [line for line in self.lines if line.metric == "step_seconds"]
        worst = max(steps, key=lambda line: line.ratio)
        low, high = worst.interval or (worst.ratio, worst.ratio)
        out = f"a step takes {worst.ratio:.3f} times ({low:.3f}-{high:.3f}) as long as before"
        if worst.case:
            out += f" with {worst.case}"
        return f"{out}: {worst.says}"


def verdict_table(verdict: Verdict) -> list[str]:
    """The comparison as a table, its notes below."""
    rows = [["case", "metric", "before", "now", "now / before", "95 % interval", "says"]]
    for line in verdict.lines:
        interval = "-"
        if line.interval is not None:
            interval = f"{line.interval[0]:.3f}-{line.interval[1]:.3f}"
        rows.append(
            [
                line.case or "-",
                line.metric,
                f"{line.old:.4g}",
                f"{line.new:.4g}",
                f"{line.ratio:.3f}",
                interval,
                line.says,
            ]
        )
    out = markdown_table(rows)
    if verdict.notes:
        out += ["", *(f"- {note}" for note in verdict.notes)]
    return out


def verdict_of(before: dict[str, Any], now: dict[str, Any]) -> Verdict:
    """Of the contents of two benchmark.json files; the earlier one has every case of the later one."""
    old = {case["label"]: case for case in before["cases"]}
    lines: list[Line] = []
    for case in now["cases"]:
        lines += _lines(old[case["label"]], case)
    notes = []
    for library, here in now["versions"].items():
        there = before["versions"].get(library)
        if there != here:
            notes.append(f"{library}: {there} then, {here} now")
    if before.get("commit") != now.get("commit"):
        notes.append(f"commit: {before.get('commit')} then, {now.get('commit')} now")
    return Verdict(lines, notes)


def _lines(old: dict[str, Any], new: dict[str, Any]) -> list[Line]:
    case, before, now = new["label"], old["steps"], new["steps"]
    paired = before["real_tokens"] == now["real_tokens"] and before["computed_tokens"] == now["computed_tokens"]
    probe = _timed(case, "the machine (a fixed product)", before["probe"], now["probe"], False)
    step = _timed(case, "step_seconds", before["seconds"], now["seconds"], paired)
    assert probe.interval is not None and step.interval is not None
    if (
        step.says == SLOWER
        and probe.interval[0] > 1
        and not _beyond(step.ratio / probe.ratio, step.interval[0] / probe.interval[1])
    ):
        step = replace(step, says=MACHINE)
    out = [step, probe]
    for name, values in now["phases"].items():
        if name in before["phases"] and max(old["phases"][name]["share"], new["phases"][name]["share"]) >= 0.02:
            out.append(_timed(case, f"phase: {name}", before["phases"][name], values, paired))
    singles = {key: (old.get(key), new.get(key)) for key in SINGLE}
    for way in ("intra", "inter"):
        singles[f"gathered, {way}"] = (old["gather_bytes_per_step"][way], new["gather_bytes_per_step"][way])
    for metric, (a, b) in singles.items():
        if a and b:
            out.append(Line(case, metric, a, b, b / a, None, "one number each"))
    return out


def _timed(case: str, metric: str, old: Sequence[float], new: Sequence[float], paired: bool) -> Line:
    ratio, low, high = ratio_of(old, new, paired)
    return Line(
        case,
        metric,
        float(np.median(old)),
        float(np.median(new)),
        ratio,
        (low, high),
        says(ratio, low, high, steps=min(len(old), len(new))),
    )


def ratio_of(old: Sequence[float], new: Sequence[float], paired: bool, seed: int = 0) -> tuple[float, float, float]:
    """New over old and its 95 % interval, by bootstrap: the median of the steps' ratios if they are pairs, else the
    ratio of the medians.
    """
    rng = np.random.default_rng(seed)
    a, b = np.asarray(old, dtype=np.float64), np.asarray(new, dtype=np.float64)
    if min(a.min(), b.min()) <= 0:
        return float("nan"), float("nan"), float("nan")
    if paired:
        n = min(len(a), len(b))
        ratios = b[:n] / a[:n]
        middle = float(np.median(ratios))
        drawn = np.median(ratios[rng.integers(0, n, (RESAMPLES, n))], 1)
    else:
        middle = float(np.median(b) / np.median(a))
        drawn = np.median(b[rng.integers(0, len(b), (RESAMPLES, len(b)))], 1) / np.median(
            a[rng.integers(0, len(a), (RESAMPLES, len(a)))], 1
        )
    low, high = np.quantile(drawn, [0.025, 0.975])
    return middle, float(low), float(high)


def says(ratio: float, low: float, high: float, steps: int) -> str:
    if steps < LEAST_STEPS:
        return FEW
    if _beyond(ratio, low):
        return SLOWER
    if high < 1 and ratio <= 1 / (1 + TOLERANCE):
        return FASTER
    return SAME


def _beyond(ratio: float, low: float) -> bool:
    return low > 1 and ratio >= 1 + TOLERANCE
