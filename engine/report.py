"""A table of results for people: on the terminal, and as report.md."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engine.errors import UserError

LEGEND = """# Results

Scores are fractions of 1; a plus-minus is half the 95 % interval over seeds; `n` test examples; `dropped` ones were too long and count
as wrong.

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
        rows.append([name, task["role"], task["metric"], str(task["n_test"]), str(dropped), *(_shown(c) for c in cells)])
    if result["average"]:
        means = [result["average"].get(m, {}).get(s) for m, s in columns]
        rows.append(["average of targets", "", "", "", "", *("" if m is None else f"{m:.3f}" for m in means)])
    trainable = result["trainable"]
    note = f"Backbone {result['backbone']}; one adapted task trains {trainable['count']:,} numbers, {trainable['percent']:.4f} % of it."
    for line in result.get("changes", []):
        note += f"\nChanged on the way: {line}."
    return f"## {run}\n\n{note}\n\n{table([head, *rows])}\n"


def _order(column: tuple[str, str]) -> tuple[str, float]:
    method, shots = column
    return method, float("inf") if shots == "full" else float(shots)


def _shown(cell: dict[str, Any] | None) -> str:
    if cell is None:
        return ""
    spread = f" ± {(cell['ci95'][1] - cell['mean']):.3f}" if cell["ci95"] else ""
    return f"{cell['mean']:.3f}{spread}"


def table(rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table that reads well unrendered too."""
    widths = [max(len(r[i]) for r in rows) for i in range(len(rows[0]))]
    lines = ["| " + " | ".join(v.ljust(w) for v, w in zip(row, widths, strict=True)) + " |" for row in rows]
    lines.insert(1, "|" + "|".join("-" * (w + 2) for w in widths) + "|")
    return "\n".join(lines) + "\n"
