"""The metaprompt against every other method: averages paired by seed, and each task over its resampled documents."""

from collections.abc import Mapping, Sequence
from typing import Any

from engine.evaluation import OUR_METHOD, paired_over_targets
from engine.reporting.blocks import Block, Cell, Fold, Table, Text
from engine.reporting.data import Run, shots_value, source_of
from engine.reporting.figures import differences
from engine.reporting.words import examples
from strict_yaml import counted

ONE_SEED = "without a verdict (one seed)"
VERDICTS = {"good": "ahead", "bad": "behind", "": "not shown to differ"}  # by the mark of a difference


def comparisons(run: Run) -> tuple[str, Table]:
    """The metaprompt against every other method at the same number of examples: in words, and as a table."""
    rows = compared(run)
    head = ["against", "shots", "difference", "95 % interval", "seeds", "won / lost / tied", "so the metaprompt is"]
    return _verdicts([d for _, _, d in rows]), Table(head, [_over_targets(*row) for row in rows], 2)


def compared(run: Run) -> list[tuple[str, str, Mapping[str, Any]]]:
    """(method, shots, difference) of all averages that can be paired with the metaprompt's."""
    out: list[tuple[str, str, Mapping[str, Any]]] = []
    if run.role != "target":
        return out
    for method, shots in run.columns():
        if method != OUR_METHOD:
            found = paired_over_targets(run.tasks, method, shots)
            if found:
                out.append((method, shots, found))
    return out


def _verdicts(found: Sequence[Mapping[str, Any]]) -> str:
    """In words, as the numbers stand."""
    words = [verdict(d) for d in found]
    counts = []
    for word in ("ahead", "behind", "not shown to differ", ONE_SEED):
        if word in words:
            counts.append(f"{words.count(word)} {word}")
    compared_with = f"Of {counted(len(words), 'comparison')} with other methods"
    return f"{compared_with} at the same number of examples: {', '.join(counts)}."


def verdict(d: Mapping[str, Any]) -> str:
    """What the metaprompt is by this difference."""
    return ONE_SEED if d["interval"] is None else VERDICTS[mark_of(d)]


def _over_targets(method: str, shots: str, d: Mapping[str, Any]) -> list[Cell | str]:
    mark = mark_of(d)
    return [
        method,
        shots,
        Cell(f"{d['difference']:+.3f}", "", mark),
        _ends(d["interval"]),
        str(len(d["seeds"])),
        f"{d['won']} / {d['lost']} / {d['tied']}",
        Cell(verdict(d), "", mark),
    ]


def _ends(interval: Sequence[float] | None) -> str:
    return "one seed" if interval is None else f"{interval[0]:+.3f} to {interval[1]:+.3f}"


def mark_of(d: Mapping[str, Any]) -> str:
    """good or bad; empty where the interval holds 0, or there is none."""
    interval = d["interval"]
    if interval is None or interval[0] <= 0 <= interval[1]:
        return ""
    return "good" if d["difference"] > 0 else "bad"


def paired_tests(run: Run) -> list[Block]:
    """Per task, over the same resampled documents; p also by Holm over the tasks of one comparison."""
    rows: list[list[Cell | str]] = []
    drawn: dict[str, list[tuple[str, list[tuple[str, Any]]]]] = {}  # shots -> a chart for each other method
    for pair, shots in _pairs(run):
        other = pair.removeprefix(f"{OUR_METHOD}-")
        found = _tests(run, pair, shots)
        adjusted = holm({name: d["p"] for name, d in found.items()})
        for name, d in found.items():
            difference = Cell(f"{d['difference']:+.3f}", "", mark_of(d))
            ps = [f"{d['p']:.3f}", f"{adjusted[name]:.3f}"]
            rows.append([name, other, shots, difference, _ends(d["interval"]), *ps])
        if not source_of(other):
            drawn.setdefault(shots, []).append((f"minus {other}, {examples(shots)}", list(found.items())))
    if not rows:
        return []
    explained = (
        "Metaprompt minus another method on the same resampled test documents (bootstrap). Each side is the mean over "
        f"its seeds. p is two-sided; p (Holm) is corrected for the {counted(len(run.tasks), 'task')} of one "
        f"comparison. {counted(len(rows), 'test')} in all: by chance alone about {0.05 * len(rows):.1f} of them would "
        "have p < 0.05."
    )
    out: list[Block] = [Text(explained)]
    if drawn:
        charts = drawn[max(drawn, key=shots_value)]
        caption = "With the most examples. The table below has the other numbers of examples." if len(drawn) > 1 else ""
        out.append(differences("Task by task", charts, caption, "difference"))
    table = Table(["task", "against", "shots", "difference", "95 % interval", "p", "p (Holm)"], rows, 3)
    return [*out, Fold("Every paired test", [table])]


def _pairs(run: Run) -> list[tuple[str, str]]:
    """Every (``metaprompt-OTHER``, shots) that any task has."""
    out: dict[tuple[str, str], None] = {}
    for task in run.tasks.values():
        for pair, by_shots in task.get("paired", {}).items():
            out |= dict.fromkeys((pair, shots) for shots in by_shots)
    return list(out)


def _tests(run: Run, pair: str, shots: str) -> dict[str, Any]:
    """Task -> its paired test."""
    out = {}
    for name, task in run.tasks.items():
        by_shots = task.get("paired", {}).get(pair, {})
        if shots in by_shots:
            out[name] = by_shots[shots]
    return out


def holm(values: Mapping[str, float]) -> dict[str, float]:
    """p values corrected for their number, step down (Holm, 1979)."""
    out, largest = {}, 0.0
    for place, (name, p) in enumerate(sorted(values.items(), key=lambda item: item[1])):
        largest = max(largest, min(1.0, p * (len(values) - place)))
        out[name] = largest
    return out
