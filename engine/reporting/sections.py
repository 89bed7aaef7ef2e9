"""The report's text and tables, run by run."""

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from engine.core import UserError
from engine.data import overlap_lines
from engine.evaluation import OUR_METHOD, by_seed, made_with, paired_over_targets, student
from engine.reporting.blocks import Block, Cell, Code, Fold, Items, Section, Table, Text
from engine.reporting.data import Run, reference_rows, scrubbed, shots_value, source_of
from engine.reporting.figures import by_run, cost, differences, few_shot, prompt_geometry, sweeps, training, transfer
from engine.reporting.geometry import geometry, nearest_vocabulary

LEGEND = (
    "Scores are fractions of 1; a plus-minus is half the 95 % interval over seeds, brackets hold the 95 % "
    "interval over test documents (bootstrap); "
    "n: test examples; dropped: those that were too long, which count as wrong."
)
MOST_COLUMNS = 12  # of one main table, beside those of the task: what a printed page holds
ONE_SEED = "without a verdict (one seed)"
UNLIKE = (
    "The runs have other targets, or other numbers of test examples of them: their averages do not compare with one "
    "another."
)
REFERENCE_NOTE = (
    "Theirs, not ours: another backbone, other data and splits, read from a third party's table. No claim rests on a "
    "comparison with them."
)


def overview(runs: Sequence[Run]) -> list[Block]:
    """At a glance: averages of all runs, and what the metaprompt gains or loses against every other method."""
    found: list[Block] = [averages_table(runs)] if any(r.averages() for r in runs) else []
    if len({tuple(sorted((name, t["n_test"]) for name, t in r.tasks.items())) for r in runs if r.role == "target"}) > 1:
        found.insert(0, Text(UNLIKE, "warning"))
    else:
        found += by_run(runs)
    for run in runs:
        rows = _compared(run)
        if rows:
            title = "Does the metaprompt win?" + (f" {run.name}" if len(runs) > 1 else "")
            verdict, numbers = comparisons(run)
            caption = f"{verdict} Averages over the {len(run.tasks)} targets, paired by seed."
            drawn = [(f"{m}, {s}", d) for m, s, d in rows]
            found.append(
                differences(title, [("", drawn)], caption, "metaprompt minus the other, average of targets", numbers)
            )
    return found


def _compared(run: Run) -> list[tuple[str, str, Mapping[str, Any]]]:
    return [
        (m, s, d)
        for m, s in run.columns()
        if m != OUR_METHOD and run.role == "target" and (d := paired_over_targets(run.tasks, m, s))
    ]


def comparisons(run: Run) -> tuple[str, Table]:
    """The metaprompt against every other method at the same number of examples: in words, and as a table."""
    rows = _compared(run)
    head = ["against", "shots", "difference", "95 % interval", "seeds", "won / lost / tied", "so the metaprompt is"]
    return _verdicts([d for *_, d in rows]), Table(head, [_over_targets(*row) for row in rows], 2)


def _verdicts(found: Sequence[Mapping[str, Any]]) -> str:
    """In words, as the numbers stand."""
    words = [_verdict(d) for d in found]
    counts = [f"{words.count(w)} {w}" for w in ("ahead", "behind", "not shown to differ", ONE_SEED) if w in words]
    return f"Of {len(words)} comparisons with other methods at the same number of examples: {', '.join(counts)}."


def _verdict(d: Mapping[str, Any]) -> str:
    if d["interval"] is None:
        return ONE_SEED
    return {"good": "ahead", "bad": "behind", "": "not shown to differ"}[_mark(d)]


def averages_table(runs: Sequence[Run]) -> Table:
    """run, method, and a column for each number of shots; half the interval over seeds behind."""
    shots = sorted({s for r in runs for by in r.averages().values() for s in by}, key=shots_value)
    rows: list[list[Cell | str]] = []
    for run in runs:
        for method, by in run.averages().items():
            if not source_of(method):
                rows.append(
                    [
                        run.name,
                        f"{len(run.tasks)} {run.role}s",
                        method,
                        *(mean_cell(run, method, s) if s in by else "" for s in shots),
                    ]
                )
    return Table(["run", "average of", "method", *shots], rows, 3)


def mean_cell(run: Run, method: str, shots: str) -> Cell:
    """An average over the tasks, with half the 95 % interval over seeds where there are several."""
    seeds = by_seed(run.tasks, method, shots)
    half = student(list(seeds.values()))[1] if seeds else None
    return Cell(f"{run.averages()[method][shots]:.3f}", "" if half is None else f"± {half:.3f}")


def _over_targets(method: str, shots: str, d: Mapping[str, Any]) -> list[Cell | str]:
    won = f"{d['won']} / {d['lost']} / {d['tied']}"
    return [
        method,
        shots,
        Cell(f"{d['difference']:+.3f}", "", _mark(d)),
        _ends(d["interval"]),
        str(len(d["seeds"])),
        won,
        Cell(_verdict(d), "", _mark(d)),
    ]


def _ends(interval: Sequence[float] | None) -> str:
    return "one seed" if interval is None else f"{interval[0]:+.3f} to {interval[1]:+.3f}"


def _mark(d: Mapping[str, Any]) -> str:
    interval = d["interval"]
    return "" if interval is None or interval[0] <= 0 <= interval[1] else "good" if d["difference"] > 0 else "bad"


def of_run(run: Run, vocabulary: bool) -> Section:
    """All of one run.

    Raises:
        UserError: ``vocabulary`` is asked for and cannot be had.
    """
    trainable = run.results["trainable"]
    note = (
        f"Backbone {run.results['backbone']}; one adapted task trains {trainable['count']:,} numbers, "
        f"{trainable['percent']:.4f} % of it."
    )
    blocks: list[Block] = [
        Text(note),
        *(Text(line, "warning") for line in warnings(run)),
        *(Text(line, "note") for line in notes(run)),
    ]
    blocks += _main_tables(run)
    remarks = [line for name, task in run.tasks.items() for line in _remarks(name, task)]
    if remarks:
        blocks.append(Fold("Rules of the metrics, documents, resamples", [Items(remarks)]))
    parts: list[tuple[str, list[Block]]] = [
        ("Paired tests", _paired(run)),
        ("Few-shot curves", few_shot(run)),
        ("Transfer", transfer(run)),
        ("Quality against cost", [*cost(run), *_trained(run)]),
        ("Learning rates", sweeps(run)),
        ("Published numbers", _references(run)),
        ("Training", training(run)),
        ("Prompt geometry", _geometry(run, vocabulary)),
        ("By label", _labels(run)),
        ("Where it comes from", _origin(run)),
    ]
    return Section(run.name, [*blocks, *(Section(title, found, level=3) for title, found in parts if found)], level=2)


def warnings(run: Run) -> list[str]:
    """Test documents that were trained on, and settings that changed on the way."""
    record = run.results.get("overlap")
    found = [f"{line}." for line in overlap_lines(record)] if record else []
    return found + [f"Changed on the way: {scrubbed(line)}." for line in run.results.get("changes", [])]


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


def _main_tables(run: Run) -> list[Block]:
    """Every task and method; several tables where there are more columns than a page holds, none of which parts a
    method that would fit.
    """
    groups: list[list[tuple[str, str]]] = [[]]
    for method in dict.fromkeys(m for m, _ in run.columns()):
        own = [c for c in run.columns() if c[0] == method]
        if groups[-1] and len(groups[-1]) + len(own) > MOST_COLUMNS:
            groups.append([])
        groups[-1] += own
    cut = [group[n : n + MOST_COLUMNS] for group in groups for n in range(0, max(len(group), 1), MOST_COLUMNS)]
    return [_main_table(run, columns) for columns in cut]


def _main_table(run: Run, columns: Sequence[tuple[str, str]]) -> Table:
    rows: list[list[Cell | str]] = []
    for name, task in run.tasks.items():
        cells = [task["methods"].get(m, {}).get(s) for m, s in columns]
        dropped = max((c["n_dropped"] for by in task["methods"].values() for c in by.values()), default=0)
        rows.append(
            [
                name,
                task["role"],
                task["metric"],
                str(task["n_test"]),
                str(dropped),
                *(_shown(c, task["metric"]) for c in cells),
            ]
        )
    if run.results["average"]:
        means = [run.results["average"].get(m, {}).get(s) for m, s in columns]
        rows.append(["average of targets", "", "", "", "", *("" if m is None else f"{m:.3f}" for m in means)])
    return Table(["task", "role", "metric", "n", "dropped", *(f"{m} {s}" for m, s in columns)], rows, 3)


def _shown(cell: dict[str, Any] | None, metric: str) -> Cell:
    if cell is None:
        return Cell("", mark="empty")
    spread = f"± {(cell['ci95'][1] - cell['mean']):.3f}" if cell["ci95"] else ""
    low, high = cell.get("intervals", {}).get(metric, (None, None))
    return Cell(f"{cell['mean']:.3f}", f"{spread}{'' if low is None else f' [{low:.3f}, {high:.3f}]'}".strip())


def _remarks(name: str, task: dict[str, Any]) -> list[str]:
    """The rule of a task's metric, how its intervals came about, and relations that no piece of a long note holds
    whole.
    """
    out = []
    if "rules" in task:
        out.append(f"{name}: {task['metric']}, {task['rules'][task['metric']]}; answers {task['answers']}.")
    if "resampling" in task:
        r = task["resampling"]
        out.append(
            f"{name}: {r['n_documents']} documents, {r['resamples']} resamples, seed {r['seed']}."
            if r["resamples"]
            else f"{name}: {r['n_documents']} documents, not resampled."
        )
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
    cut = max((c.get("scores", {}).get("n_cut", 0) for by in task["methods"].values() for c in by.values()), default=0)
    if cut:
        out.append(f"{name}: relations cut in two with their long documents, counted as missed: {cut:.0f}.")
    return out


def _paired(run: Run) -> list[Block]:
    """Per task, over the same resampled documents; p also by Holm over the tasks of one comparison."""
    rows: list[list[Cell | str]] = []
    drawn: dict[str, list[tuple[str, list[tuple[str, Any]]]]] = {}  # shots -> a chart for each other method
    pairs = dict.fromkeys((pair, s) for t in run.tasks.values() for pair, by in t.get("paired", {}).items() for s in by)
    for pair, shots in pairs:
        other = pair.removeprefix(f"{OUR_METHOD}-")
        found = {
            name: t["paired"][pair][shots]
            for name, t in run.tasks.items()
            if shots in t.get("paired", {}).get(pair, {})
        }
        adjusted = holm({name: d["p"] for name, d in found.items()})
        for name, d in found.items():
            difference = Cell(f"{d['difference']:+.3f}", "", _mark(d))
            rows.append(
                [name, other, shots, difference, _ends(d["interval"]), f"{d['p']:.3f}", f"{adjusted[name]:.3f}"]
            )
        if not source_of(other):
            drawn.setdefault(shots, []).append(
                (f"minus {other}, {shots if shots != 'full' else 'all'} examples", list(found.items()))
            )
    if not rows:
        return []
    explained = Text(
        "Metaprompt minus another method on the same documents, resample by resample; each side is the mean "
        "over its seeds. p is two-sided; its second "
        f"column is corrected for the {len(run.tasks)} tasks of one comparison (Holm). {len(rows)} tests: "
        "without any difference about "
        f"{0.05 * len(rows):.1f} of them would have p < 0.05."
    )
    charts = drawn[max(drawn, key=shots_value)] if drawn else []
    figures = (
        [differences("Task by task", charts, "With the most examples; the other numbers of them below.", "difference")]
        if charts
        else []
    )
    table = Table(["task", "against", "shots", "difference", "95 % interval", "p", "p (Holm)"], rows, 3)
    return [explained, *figures, Fold("Every paired test", [table])]


def holm(values: Mapping[str, float]) -> dict[str, float]:
    """p values corrected for their number, step down (Holm, 1979)."""
    out, largest = {}, 0.0
    for place, (name, p) in enumerate(sorted(values.items(), key=lambda item: item[1])):
        largest = max(largest, min(1.0, p * (len(values) - place)))
        out[name] = largest
    return out


def _trained(run: Run) -> list[Block]:
    methods = run.results["trainable"].get("methods", {})
    rows = [[m, f"{v['count']:,}", f"{v['percent']:.4f} %"] for m, v in methods.items()]
    return [Table(["method", "trainable numbers of one adapted task", "of the backbone"], rows)] if rows else []


def _references(run: Run) -> list[Block]:
    """Published scores beside ours, only for tasks that bear their names."""
    if run.role != "target":
        return []
    named = reference_rows(run.tasks)
    invented = [name for name in run.tasks if name.startswith("pocket_")]
    out: list[Block] = []
    if named:
        best = {
            name: max((c["mean"] for c in run.tasks[name]["methods"].get(OUR_METHOD, {}).values()), default=None)
            for name, _, _ in named
        }
        rows = [
            [
                name,
                f"{score:.3f} ({metric})",
                "" if best[name] is None else f"{best[name]:.3f} ({run.tasks[name]['metric']})",
            ]
            for name, metric, score in named
        ]
        out += [
            Text(REFERENCE_NOTE, "note"),
            Table(["task", "published: theirs, not ours", "metaprompt here, its best number of shots"], rows),
        ]
    if invented:
        out.append(
            Text(
                "The pocket_ tasks are invented notes: no published number is comparable with them, and none is shown.",
                "note",
            )
        )
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


def _labels(run: Run) -> list[Block]:
    """Precision, recall and F1 of each label, a column for each method."""
    out: list[Block] = []
    for name, task in run.tasks.items():
        cells = [
            (f"{m} {s}", c["labels"])
            for m, s in run.columns()
            if (c := task["methods"].get(m, {}).get(s)) and c.get("labels")
        ]
        if cells:
            labels = dict.fromkeys(label for _, by in cells for label in by)
            support = {label: max(by[label]["support"] for _, by in cells if label in by) for label in labels}
            rows = [[label, f"{support[label]:.0f}", *(_three(by.get(label)) for _, by in cells)] for label in labels]
            out.append(
                Fold(
                    f"{name}, by label",
                    [Table(["label", "support", *(f"{column} (P R F1)" for column, _ in cells)], rows)],
                )
            )
    return out


def _three(row: dict[str, float] | None) -> str:
    """Empty for a label that is neither in the data nor in the answers."""
    if row is None or not (row["support"] or row["predicted"]):
        return ""
    return f"{row['precision']:.3f} {row['recall']:.3f} {row['f1']:.3f}"


def _origin(run: Run) -> list[Block]:
    """Hashes, versions, date, configuration."""
    results = run.results
    rows = [["checkpoint", results.get("checkpoint", "not recorded")]]
    rows += [[name, value] for name, value in results.get("hashes", {}).items()]
    rows += [["evaluated", results["date"]]] if "date" in results else []
    here = made_with()["versions"]
    versions = results.get("versions")
    told = ", ".join(f"{k} {v}" for k, v in (versions or here).items())
    rows.append(["versions" if versions else "versions (of this report; the evaluation's were not recorded)", told])
    found: list[Block] = [Table(["what", "identity"], rows, 2)]
    if run.config:
        found.append(
            Fold("Configuration", [Code(yaml.safe_dump(run.config, sort_keys=False, allow_unicode=True), "yaml")])
        )
    return found
