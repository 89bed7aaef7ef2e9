"""The first screen of several runs: in which of them the metaprompt wins, by how much, and with how many numbers."""

import os
from collections import Counter
from collections.abc import Sequence

from engine.evaluation import OUR_METHOD
from engine.reporting.blocks import Block, Cell, Figure, Table, Text
from engine.reporting.comparisons import mark_of, verdict
from engine.reporting.costs import adaptation_hours
from engine.reporting.data import Run
from engine.reporting.figures import difference_chart
from engine.reporting.verdict import QUESTION, Rival, headline, instruction_words, rivals, trained_numbers
from engine.reporting.words import hours, listed, method_name, plus_minus, score

HEAD = (
    "run",
    "examples",
    "metaprompt",
    "its trained numbers",
    "best other method",
    "its score",
    "its trained numbers",
    "device-hours",
    "difference",
    "verdict",
)


def answers_of_runs(runs: Sequence[Run], before: Sequence[Block]) -> list[Block]:
    """A sentence, a table and a figure; nothing but ``before`` where fewer than two runs compare the metaprompt.

    Args:
        before: what is told of the distillations before the runs, beneath the table.
    """
    found = {run.name: (run, headline(rivals(run))) for run in runs if run.role == "target" and rivals(run)}
    if len(found) < 2:
        return list(before)
    shared = shared_folder(list(found))
    rows, charted = [], []
    for name, (run, rival) in found.items():
        short = os.path.relpath(name, shared) if shared else name
        rows.append(_row(short, run, rival))
        charted.append((short, rival.difference))
    chart = difference_chart(f"metaprompt minus {QUESTION}", charted, "difference of the averages", width=520)
    figure = Figure("Difference by run", [chart], "Lines: 95 % intervals over seeds.")
    place = f" The runs are in {shared}." if shared else ""
    recorded = any(adaptation_hours(run) for run, _ in found.values())
    cost = " Device-hours: of all adaptations of a run, and of choosing their learning rates." if recorded else ""
    where = Text(f"Each run at its fewest examples above 0.{place}{cost}", "small")
    said = _counted([rival for _, rival in found.values()])
    return [Text(f"{said} {instruction_words(runs)}".strip(), "answer"), _table(rows, recorded), where, *before, figure]


def _table(rows: Sequence[Sequence[Cell | str]], recorded: bool) -> Table:
    """Without device-hours where no run has recorded them."""
    keep = [n for n, head in enumerate(HEAD) if recorded or head != "device-hours"]
    return Table([HEAD[n] for n in keep], [[row[n] for n in keep] for row in rows], 1)


def shared_folder(names: Sequence[str]) -> str:
    """The folder that all runs are in, by their names; empty where there is none."""
    return os.path.commonpath(names) if len({name.startswith("/") for name in names}) == 1 else ""


def _counted(found: Sequence[Rival]) -> str:
    """In how many runs the metaprompt is ahead, behind, or neither."""
    words = Counter(verdict(rival.difference) for rival in found)
    parts = [f"{word} in {count}" for word, count in words.items()]
    return f"{len(found)} runs compare the metaprompt with {QUESTION}. It is {listed(parts)}."


def _row(name: str, run: Run, rival: Rival) -> list[Cell | str]:
    ends = rival.difference["interval"]
    interval = f"{ends[0]:+.3f} to {ends[1]:+.3f}" if ends else "one seed"
    spent = adaptation_hours(run)
    return [
        name,
        rival.shots,
        Cell(score(rival.ours), plus_minus(run.half_interval(OUR_METHOD, rival.shots))),
        trained_numbers(run, OUR_METHOD),
        method_name(rival.method).removeprefix("the "),
        Cell(score(rival.theirs), plus_minus(run.half_interval(rival.method, rival.shots))),
        trained_numbers(run, rival.method),
        hours(spent) if spent else "",
        Cell(f"{rival.difference['difference']:+.3f}", f"({interval})", mark_of(rival.difference)),
        verdict(rival.difference),
    ]
