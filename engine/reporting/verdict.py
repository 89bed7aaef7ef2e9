"""The first screen: whether the metaprompt wins, by how much, and at which cost: a sentence, a table, a figure."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from markupsafe import Markup

from engine.config import UNTRAINED
from engine.evaluation import OUR_METHOD
from engine.reporting.blocks import Block, Cell, Figure, Items, Table, Text
from engine.reporting.comparisons import ONE_SEED, compared, comparisons, mark_of, verdict
from engine.reporting.costs import Distillation, cost_words
from engine.reporting.data import Run, shots_value, source_of
from engine.reporting.figures import average_chart, cost_chart, difference_chart, keys_of
from engine.reporting.words import examples, hours, listed, method_name, plus_minus, score, with_examples
from strict_yaml import counted

TITLE = "Does the metaprompt win?"
QUESTION = "the best other method"
EVERYWHERE = {
    "ahead": f"Yes: the metaprompt is ahead of {QUESTION}",
    "behind": f"No: the metaprompt is behind {QUESTION}",
    "not shown to differ": f"Not shown: the metaprompt and {QUESTION} do not clearly differ",
}
Axis = tuple[float, float]


class Rival(NamedTuple):
    """The best other method at one number of examples. difference: of the metaprompt to it."""

    shots: str
    ours: float
    method: str
    theirs: float
    difference: Mapping[str, Any]
    only: bool  # no other method was compared here


def first_screen(run: Run, axis: Axis, made: Sequence[Distillation]) -> list[Block]:
    """The answer of one run, in words, as a table and as a figure; nothing where no target was scored.

    Args:
        axis: both ends of the score axes.
        made: distillations, of which the cost of the run's own is named too.
    """
    if run.role != "target" or OUR_METHOD not in run.averages():
        return []
    found = rivals(run)
    out: list[Block] = []
    if found:
        first = headline(found)
        out.append(Text(f"{answer(found)} {sentence(first, len(run.tasks))}".strip(), "answer"))
        others = [sentence(rival) for rival in found if rival is not first]
        if others:
            out.append(Items(others))
    else:
        out.append(Text("No other method was evaluated on all of these targets: there is nothing to compare with."))
    out.append(summary_table(run))
    below = [instruction_words([run]), HOW_TO_READ, *cost_words(run, made)]
    out.append(Text(" ".join(below).strip(), "small"))
    if found:
        out.append(_figure(run, axis))
    return out


HOW_TO_READ = (
    "Beside a score: ± half the 95 % interval over seeds. In parentheses: the metaprompt minus this method, with its "
    "95 % interval. Blue: the metaprompt is clearly ahead of this method; orange: clearly behind."
)


def rivals(run: Run) -> list[Rival]:
    """At every number of examples the other method with the highest average; variants of the metaprompt are no other
    method.
    """
    at: dict[str, list[tuple[float, str, Mapping[str, Any]]]] = {}
    averages = run.averages()
    for method, shots, difference in compared(run):
        value = averages.get(method, {}).get(shots)
        if method.partition("@")[0] != OUR_METHOD and value is not None and shots in averages.get(OUR_METHOD, {}):
            at.setdefault(shots, []).append((value, method, difference))
    out = []
    for shots in sorted(at, key=shots_value):
        theirs, method, difference = max(at[shots], key=lambda one: one[0])
        ours = averages[OUR_METHOD][shots]
        out.append(Rival(shots, ours, method, theirs, difference, len(at[shots]) == 1))
    return out


def instruction_words(runs: Sequence[Run]) -> str:
    """What the written instruction reaches with nothing trained, which every trained prompt should be held against."""
    scores = [run.averages().get("instruction", {}).get("0") for run in runs if run.role == "target"]
    found = sorted({score(value) for value in scores if value is not None})
    if not found:
        return ""
    spread = found[0] if len(found) == 1 else f"{found[0]} to {found[-1]}"
    return f"The written instruction alone scores {spread}."


def headline(found: Sequence[Rival]) -> Rival:
    """That of the fewest examples above 0, which the method is for."""
    return next((rival for rival in found if rival.shots != "0"), found[0])


def answer(found: Sequence[Rival]) -> str:
    """Over all numbers of examples above 0; only if there are none, without examples."""
    groups: dict[str, list[str]] = {}
    for rival in [r for r in found if r.shots != "0"] or found:
        groups.setdefault(verdict(rival.difference), []).append(rival.shots)
    if list(groups) == [ONE_SEED]:
        return ""  # the sentence says so itself
    if len(groups) == 1:
        (word, shots), *_ = groups.items()
        where = "at every number of training examples" if len(shots) > 1 else with_examples(shots[0])
        return f"{EVERYWHERE[word]} {where}."
    parts = [f"{word} {listed([with_examples(s) for s in shots])}" for word, shots in groups.items()]
    beginning = "The verdict is not the same at every number of training examples."
    if {"ahead", "behind"} <= groups.keys():  # a difference that is not shown, or one seed, shows no dependence
        beginning = "It depends on the number of training examples."
    return f"{beginning} The metaprompt is {'; '.join(parts)}."


def sentence(rival: Rival, n_targets: int = 0) -> str:
    """The scores and their difference with its interval.

    Args:
        n_targets: names the number of target tasks, if above 0.
    """
    over = f" over {counted(n_targets, 'target task')}" if n_targets else ""
    name = method_name(rival.method)
    if not rival.only:
        name = f"{QUESTION} ({name.removeprefix('the ')})"
    beginning = with_examples(rival.shots)
    return (
        f"{beginning[0].upper()}{beginning[1:]} the metaprompt scores {score(rival.ours)} on average{over}, {name} "
        f"{score(rival.theirs)}; difference {rival.difference['difference']:+.3f} ({_certainty(rival.difference)})."
    )


def _certainty(difference: Mapping[str, Any]) -> str:
    ends = difference["interval"]
    if ends is None:
        return "one seed: no interval, no verdict"
    return f"95 % interval {ends[0]:+.3f} to {ends[1]:+.3f}; {counted(len(difference['seeds']), 'seed')}"


def summary_table(run: Run) -> Table:
    """A row a method: trained numbers, device hours, and the average at every number of examples."""
    averages = run.averages()
    differences = {(method, shots): difference for method, shots, difference in compared(run)}
    methods = [method for method in averages if not source_of(method)]
    shots = sorted(set().union(*(averages[method] for method in methods)), key=shots_value)
    rows: list[list[Cell | str]] = []
    for method in methods:
        row: list[Cell | str] = [method]
        for s in shots:
            row.append(_score(run, method, shots=s, difference=differences.get((method, s))))
        rows.append([*row, trained_numbers(run, method), _hours(run, method)])
    names = ["no examples" if s == "0" else examples(s) for s in shots]
    head = ["method", *names, "trained numbers per task", "device-hours per task"]
    keep = list(range(len(head) - 2))
    for number in (len(head) - 2, len(head) - 1):
        if any(row[number] for row in rows if row[0] not in UNTRAINED):
            keep.append(number)
    return Table([head[n] for n in keep], [[row[n] for n in keep] for row in rows], 1)


def trained_numbers(run: Run, method: str) -> str:
    """Numbers that one task trains; empty where the results do not say."""
    counted = run.results["trainable"].get("methods", {}).get(method)
    if method in UNTRAINED:
        return "0"
    return f"{counted['count']:,}" if counted else ""


def _hours(run: Run, method: str) -> str:
    """Of training one row; the range over the numbers of examples where they differ."""
    if method in UNTRAINED:
        return "0"
    spent = [one["device_hours"] for one in run.results.get("cost", {}).get(method, {}).values()]
    if not spent:
        return ""
    low, high = hours(min(spent)), hours(max(spent))
    return low if low == high else f"{low} to {high}"


def _score(run: Run, method: str, shots: str, difference: Mapping[str, Any] | None) -> Cell | str:
    value = run.averages()[method].get(shots)
    if value is None:
        return ""
    if difference is None:
        return Cell(score(value), plus_minus(run.half_interval(method, shots)))
    ends = difference["interval"]
    interval = f"; {ends[0]:+.3f} to {ends[1]:+.3f}" if ends else ""
    return Cell(score(value), f"({difference['difference']:+.3f}{interval})", mark_of(difference))


def _figure(run: Run, axis: Axis) -> Figure:
    """Scores over examples, differences, scores against trained numbers; beneath, the differences as numbers."""
    words, numbers = comparisons(run)
    rows = [(f"{method}, {shots}", difference) for method, shots, difference in compared(run)]
    charts: list[Markup] = [
        average_chart(run, axis),
        difference_chart("metaprompt minus another method", rows, "difference of the averages", width=380),
        cost_chart(run, axis),
    ]
    caption = f"{words} Averages over {counted(len(run.tasks), 'target')}, paired by seed."
    colours = "Lines: 95 % intervals over seeds. Differences: blue above 0, orange below 0, grey not clear."
    title = "Score, difference and cost"
    return Figure(title, [chart for chart in charts if chart], caption, colours, keys_of(run.methods()), numbers)
