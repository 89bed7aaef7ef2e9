"""A table of results for people: on the terminal, and as report.md."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engine.errors import UserError
from engine.unseen import lines

LEGEND = """# Results

Scores are fractions of 1; a plus-minus is half the 95 % interval over seeds, brackets hold the 95 % interval over test documents (bootstrap);
`n` test examples; `dropped` ones were too long and count as wrong.

"""


def write_report(runs: Sequence[Path], output: Path) -> str:
    """Print the table of all runs and write ``report.md`` into ``output``.

    Raises:
        UserError: a run has no results.json, or it cannot be read; all at once.
    """
    problems, results = [], []
    for run in runs:
        try:
            result = json.loads((run / "results.json").read_text())
            if isinstance(result, dict) and {"tasks", "average", "trainable", "backbone"} <= result.keys():
                results.append((run, result))
            else:
                problems.append(f"--runs: {run / 'results.json'}: is no results file; evaluate the run again")
        except FileNotFoundError:
            problems.append(f"--runs: {run} has no results.json; run `python train.py evaluate --run {run}` first")
        except (OSError, json.JSONDecodeError) as error:
            problems.append(f"--runs: {run / 'results.json'}: not readable ({type(error).__name__}); evaluate the run again")
    if problems:
        raise UserError(problems)
    sections = [_section(run, result) for run, result in results]
    text = LEGEND + "\n".join(sections)
    output.mkdir(parents=True, exist_ok=True, mode=0o700)
    (output / "report.md").write_text(text)
    print(text)
    print(f"written to {output / 'report.md'}")
    return text


def _section(run: Path, result: dict[str, Any]) -> str:
    columns = sorted({(m, s) for t in result["tasks"].values() for m, by in t["methods"].items() for s in by}, key=_order)
    head = ["task", "role", "metric", "n", "dropped", *(f"{m} {s}" for m, s in columns)]
    rows = []
    for name, task in result["tasks"].items():
        cells = [task["methods"].get(m, {}).get(s) for m, s in columns]
        dropped = max(c["n_dropped"] for c in cells if c)
        rows.append([name, task["role"], task["metric"], str(task["n_test"]), str(dropped), *(_shown(c, task['metric']) for c in cells)])
    if result["average"]:
        means = [result["average"].get(m, {}).get(s) for m, s in columns]
        rows.append(["average of targets", "", "", "", "", *("" if m is None else f"{m:.3f}" for m in means)])
    trainable = result["trainable"]
    note = f"Backbone {result['backbone']}; one adapted task trains {trainable['count']:,} numbers, {trainable['percent']:.4f} % of it."
    note += _overlap_note(result.get("overlap"))
    for line in result.get("changes", []):
        note += f"\nChanged on the way: {line}."
    below = [f"- {line}\n" for name, task in result["tasks"].items() for line in _remarks(name, task)]
    labels = [_by_label(name, task, columns) for name, task in result["tasks"].items()]
    return f"## {run}\n\n{note}\n\n{table([head, *rows])}\n" + "".join([*below, "\n" if below else "", *labels])


def _remarks(name: str, task: dict[str, Any]) -> list[str]:
    """The rule of a task's metric, how its intervals came about, and relations that no piece of a long note holds whole."""
    out = []
    if "rules" in task:
        out.append(f"{name}: {task['metric']}, {task['rules'][task['metric']]}; answers {task['answers']}.")
    if "resampling" in task:
        r = task["resampling"]
        out.append(f"{name}: {r['n_documents']} documents, {r['resamples']} resamples, seed {r['seed']}." if r["resamples"]
                   else f"{name}: {r['n_documents']} documents, not resampled.")  # fmt: skip
    for shots, cell in task["methods"].get("in_context", {}).items():
        if any(cell.get("n_examples_left_out", ())):
            fewest, most = min(cell["n_examples_fewest"]), max(cell["n_examples_most"])
            left_out = sum(cell["n_examples_left_out"])
            out.append(f"{name}: in_context {shots}: contexts hold {fewest} to {most} of {shots} examples, the others did not fit ({left_out} in all).")
    cut = max(c.get("scores", {}).get("n_cut", 0) for by in task["methods"].values() for c in by.values())
    if cut:
        out.append(f"{name}: relations cut in two with their long documents, counted as missed: {cut:.0f}.")
    return out


def _by_label(name: str, task: dict[str, Any], columns: Sequence[tuple[str, str]]) -> str:
    """Precision, recall and F1 of each label, a column for each method."""
    cells = [(f"{m} {s}", c["labels"]) for m, s in columns if (c := task["methods"].get(m, {}).get(s)) and c.get("labels")]
    if not cells:
        return ""
    names = dict.fromkeys(label for _, labels in cells for label in labels)
    rows = [["label", "support", *(f"{column} (P R F1)" for column, _ in cells)]]
    for label in names:
        support = max(labels[label]["support"] for _, labels in cells if label in labels)
        rows.append([label.replace("|", "\\|"), f"{support:.0f}", *(_three(labels.get(label)) for _, labels in cells)])
    return f"### {name}, by label\n\n{table(rows)}\n"


def _three(row: dict[str, float] | None) -> str:
    """Empty for a label that is neither in the data nor in the answers."""
    if row is None or not (row["support"] or row["predicted"]):
        return ""
    return f"{row['precision']:.3f} {row['recall']:.3f} {row['f1']:.3f}"


def _overlap_note(record: dict[str, Any] | None) -> str:
    if record is None:
        return ""
    out = [f"{line}." for line in lines(record)]
    if record["targets"] and not record["pairs"]:
        out.append("No test document of the targets was found in the sources' training documents.")
    if record.get("unchecked"):
        out.append(f"Not compared with the sources' training documents (data.keep_unseen of the distillation): {', '.join(record['unchecked'])}.")
    return "".join(f"\n{line}" for line in out)


def _order(column: tuple[str, str]) -> tuple[str, float]:
    method, shots = column
    return method, float("inf") if shots == "full" else float(shots)


def _shown(cell: dict[str, Any] | None, metric: str) -> str:
    if cell is None:
        return ""
    spread = f" ± {(cell['ci95'][1] - cell['mean']):.3f}" if cell["ci95"] else ""
    low, high = cell.get("intervals", {}).get(metric, (None, None))
    return f"{cell['mean']:.3f}{spread}" + ("" if low is None else f" [{low:.3f}, {high:.3f}]")


def table(rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table that reads well unrendered too."""
    widths = [max(len(r[i]) for r in rows) for i in range(len(rows[0]))]
    lines = ["| " + " | ".join(v.ljust(w) for v, w in zip(row, widths, strict=True)) + " |" for row in rows]
    lines.insert(1, "|" + "|".join("-" * (w + 2) for w in widths) + "|")
    return "\n".join(lines) + "\n"
