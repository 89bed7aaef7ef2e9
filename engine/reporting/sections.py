"""The report's text and tables, run by run."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from engine.core import UserError
from engine.data import overlap_lines
from engine.reporting.appendix import label_tables, origin, references, trained
from engine.reporting.blocks import SUMMARY, Block, Cell, Fold, Items, Section, Table, Text
from engine.reporting.comparisons import paired_tests
from engine.reporting.costs import distillation_costs, distillations
from engine.reporting.data import Run, cell_of, scrubbed, shots_value, source_of
from engine.reporting.figures import by_run, cost, few_shot, prompt_geometry, score_range, sweeps, training, transfer
from engine.reporting.geometry import geometry, nearest_vocabulary
from engine.reporting.several_runs import answers_of_runs
from engine.reporting.verdict import TITLE, Axis, first_screen
from engine.reporting.words import plus_minus, score
from strict_yaml import counted

LEGEND = (
    "Scores are fractions of 1. ± is half the 95 % interval over seeds. Brackets hold the 95 % interval over test "
    "documents (bootstrap). n: test examples. dropped: examples that were too long; they count as wrong."
)
MOST_COLUMNS = 12  # of one main table, beside those of the task: what a printed page holds
UNLIKE = (
    "The runs have other targets, or other numbers of test examples of them: their averages do not compare with one "
    "another."
)


def overview(runs: Sequence[Run], others: Mapping[Path, str]) -> Section:
    """The first screen: whether the metaprompt wins; of several runs their averages too.

    Args:
        others: folder -> name of distillations whose cost is told, though their scores are not.
    """
    axis, made = score_range(runs), distillations(runs, others)
    several = sum(run.role == "target" for run in runs) > 1
    told = () if several and len(made) == 1 else made  # of one distillation the cost stands above the runs
    answers = {run.name: first_screen(run, axis, told) for run in runs}
    answers = {name: found for name, found in answers.items() if found}
    if len(answers) == 1 and not several:
        return Section(TITLE, next(iter(answers.values())), level=2)
    found = answers_of_runs(runs, distillation_costs(made) if several else [])
    if any(run.averages() for run in runs):
        found.append(averages_table(runs))
    if _unlike(runs):
        found.insert(0, Text(UNLIKE, "warning"))
    else:
        found += by_run(runs, axis)
    for name, blocks in answers.items():
        found.append(Section(name, blocks, level=3))
    return Section(TITLE if answers else "At a glance", found, level=2)


def _unlike(runs: Sequence[Run]) -> bool:
    """Whether the runs' averages are over other targets, or other examples of them."""
    kinds = set()
    for run in runs:
        if run.role == "target":
            kinds.add(frozenset((name, task["n_test"]) for name, task in run.tasks.items()))
    return len(kinds) > 1


def averages_table(runs: Sequence[Run]) -> Table:
    """run, method, and a column for each number of shots; half the interval over seeds behind."""
    shots = shots_of(runs)
    rows: list[list[Cell | str]] = []
    for run in runs:
        for method in run.averages():
            if not source_of(method):
                cells = [mean_cell(run, method, s) for s in shots]
                rows.append([run.name, counted(len(run.tasks), run.role), method, *cells])
    return Table(["run", "average of", "method", *shots], rows, 3)


def shots_of(runs: Sequence[Run]) -> list[str]:
    """All numbers of shots that any run has an average of, ascending."""
    found: set[str] = set()
    for run in runs:
        found = found.union(*run.averages().values())
    return sorted(found, key=shots_value)


def mean_cell(run: Run, method: str, shots: str) -> Cell | str:
    """An average over the tasks, with half the 95 % interval over seeds where there are several; empty where there is
    none.
    """
    averages = run.averages()[method]
    if shots not in averages:
        return ""
    return Cell(score(averages[shots]), plus_minus(run.half_interval(method, shots)))


STAGES = {"target": "Adaptation", "source": "Distillation"}


def of_run(run: Run, vocabulary: bool, axis: Axis) -> Section:
    """All of one run.

    Args:
        axis: both ends of the score axes.

    Raises:
        UserError: ``vocabulary`` is asked for and cannot be had.
    """
    trainable = run.results["trainable"]
    note = (
        f"Backbone {run.results['backbone']}; one adapted task trains {trainable['count']:,} numbers, "
        f"{trainable['percent']:.4f} % of it."
    )
    blocks: list[Block] = [Text(note)]
    blocks += [Text(line, "warning") for line in warnings(run)]
    blocks += [Text(line, "note") for line in notes(run)]
    blocks.append(Section("Task by task", _tasks(run), level=3))
    parts: list[tuple[str, list[Block]]] = [
        ("Few-shot curves", few_shot(run, axis, whole=False)),
        ("Paired tests", paired_tests(run)),
        ("Transfer", transfer(run)),
        ("Quality against cost", cost(run, axis) or trained(run)),
        ("Learning rates", sweeps(run, axis)),
        ("Published numbers", references(run)),
        ("Training", training(run)),
        ("Prompt geometry", _folded("Prompts on a plane, and their cosines", _geometry(run, vocabulary))),
        ("By label", _folded("Precision, recall and F1 of every label", label_tables(run))),
        ("Origin", _folded("Hashes, versions, configuration", origin(run))),
    ]
    for title, found in parts:
        if found:
            blocks.append(Section(title, found, level=3))
    return Section(f"{STAGES[run.role]}: {run.name}", blocks, level=2)


def _tasks(run: Run) -> list[Block]:
    """Scores of every task, and what else is to be known of them."""
    remarks: list[str] = []
    for name, task in run.tasks.items():
        remarks += _remarks(name, task)
    folded = [Fold("Rules of the metrics, documents, resamples", [Items(remarks)])] if remarks else []
    return [Text(LEGEND, "small"), *_main_tables(run), *folded]


def _folded(title: str, blocks: list[Block]) -> list[Block]:
    """What few readers need; a warning stays in sight."""
    if any(isinstance(block, Text | Section) for block in blocks):
        return blocks
    return [Fold(title, blocks)] if blocks else []


def warnings(run: Run) -> list[str]:
    """Test documents that were trained on, and settings that changed on the way."""
    record = run.results.get("overlap")
    out = []
    if record:
        out += [f"{line}." for line in overlap_lines(record)]
    for line in run.results.get("changes", []):
        out.append(f"Changed on the way: {scrubbed(line)}.")
    return out


def notes(run: Run) -> list[str]:
    """What was compared and is clean, and what was not compared."""
    record = run.results.get("overlap")
    out = []
    if record and record["targets"] and not record["pairs"]:
        out.append("No test document of the targets was found in the sources' training documents.")
    if record and record.get("unchecked"):
        out.append(
            "Not compared with the sources' training documents (data.decontaminate_against of the distillation): "
            f"{', '.join(record['unchecked'])}."
        )
    return out


# ---- every task and method


def _main_tables(run: Run) -> list[Block]:
    """Every task and method; several tables where there are more columns than a page holds, none of which parts a
    method that would fit.
    """
    groups: list[list[tuple[str, str]]] = [[]]
    for method in run.methods():
        own = [column for column in run.columns() if column[0] == method]
        if groups[-1] and len(groups[-1]) + len(own) > MOST_COLUMNS:
            groups.append([])
        groups[-1] += own
    tables: list[Block] = []
    for group in groups:
        for begin in range(0, max(len(group), 1), MOST_COLUMNS):
            tables.append(_main_table(run, group[begin : begin + MOST_COLUMNS]))
    return tables


def _main_table(run: Run, columns: Sequence[tuple[str, str]]) -> Table:
    rows: list[list[Cell | str]] = []
    for name, task in run.tasks.items():
        row: list[Cell | str] = [name, task["role"], task["metric"], str(task["n_test"]), str(_n_dropped(task))]
        for method, shots in columns:
            row.append(_shown(cell_of(task, method, shots), task["metric"]))
        rows.append(row)
    averages = run.results["average"]
    if averages:
        means = [averages.get(method, {}).get(shots) for method, shots in columns]
        rows.append([SUMMARY, "", "", "", "", *map(score, means)])
    return Table(["task", "role", "metric", "n", "dropped", *map(" ".join, columns)], rows, 3)


def _cells(task: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Of every method and number of shots."""
    return [cell for by_shots in task["methods"].values() for cell in by_shots.values()]


def _n_dropped(task: Mapping[str, Any]) -> int:
    return max((cell["n_dropped"] for cell in _cells(task)), default=0)


def _shown(cell: dict[str, Any] | None, metric: str) -> Cell:
    """A mean with half its interval over seeds, and the interval over documents in brackets."""
    if cell is None:
        return Cell("", mark="empty")
    intervals = []
    if cell["ci95"]:
        intervals.append(plus_minus(cell["ci95"][1] - cell["mean"]))
    if metric in cell.get("intervals", {}):
        low, high = cell["intervals"][metric]
        intervals.append(f"[{low:.3f}, {high:.3f}]")
    return Cell(score(cell["mean"]), " ".join(intervals))


def _remarks(name: str, task: dict[str, Any]) -> list[str]:
    """The rule of a task's metric, how its intervals came about, and relations that no piece of a long note holds
    whole.
    """
    out = []
    if "rules" in task:
        out.append(f"{name}: {task['metric']}, {task['rules'][task['metric']]}; answers {task['answers']}.")
    if "resampling" in task:
        drawn = task["resampling"]
        how = "not resampled"
        if drawn["resamples"]:
            how = f"{counted(drawn['resamples'], 'resample')}, seed {drawn['seed']}"
        out.append(f"{name}: {counted(drawn['n_documents'], 'document')}, {how}.")
    for shots, cell in task["methods"].get("in_context", {}).items():
        if any(cell.get("n_examples_left_out", ())):
            fewest, most = min(cell["n_examples_fewest"]), max(cell["n_examples_most"])
            left_out = sum(cell["n_examples_left_out"])
            out.append(
                f"{name}: in_context {shots}: contexts hold {fewest} to {most} of {shots} examples, the others "
                f"did not fit ({left_out} in all)."
            )
    for method, by_shots in task.get("unfilled", {}).items():
        out += [f"{name}: {method} {shots}: no score: {reason}." for shots, reason in by_shots.items()]
    n_cut = max((cell.get("scores", {}).get("n_cut", 0) for cell in _cells(task)), default=0)
    if n_cut:
        out.append(f"{name}: relations cut in two with their long documents, counted as missed: {n_cut:.0f}.")
    return out


def _geometry(run: Run, vocabulary: bool) -> list[Block]:
    try:
        found = geometry(run.folder)
    except UserError as error:
        if vocabulary:
            raise
        return [Text(f"Not drawn: {scrubbed(error.problems[0])}.", "note")]
    words = None
    if vocabulary:
        raw = yaml.safe_load((run.folder / "config.yaml").read_text())
        words = nearest_vocabulary(found.prompts, raw["backbone"])
    return prompt_geometry(run, found, words)
