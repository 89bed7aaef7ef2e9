"""What stands behind a run's scores: published numbers, each label's numbers, hashes, versions and configuration."""

from typing import Any

import yaml

from engine.evaluation import OUR_METHOD, made_with
from engine.reporting.blocks import Block, Code, Fold, Table, Text
from engine.reporting.data import Run, cell_of, reference_rows

REFERENCE_NOTE = (
    "The published scores are of another backbone, other data and other splits. They were read from a third party's "
    "table. They do not compare with the scores of this report."
)
INVENTED_NOTE = "The pocket_ tasks are invented notes. No published score compares with them, so none is shown."


def trained(run: Run) -> list[Block]:
    """Numbers that one adapted task trains, by method."""
    rows = []
    for method, counted in run.results["trainable"].get("methods", {}).items():
        rows.append([method, f"{counted['count']:,}", f"{counted['percent']:.4f} %"])
    head = ["method", "trainable numbers of one adapted task", "of the backbone"]
    return [Table(head, rows)] if rows else []


def references(run: Run) -> list[Block]:
    """Published scores beside ours, only for tasks that bear their names."""
    out: list[Block] = []
    if run.role != "target":
        return out
    rows = []
    for name, metric, published in reference_rows(run.tasks):
        rows.append([name, f"{published:.3f} ({metric})", _best(run.tasks[name])])
    if rows:
        head = ["task", "published, of others", "metaprompt in this run, best number of examples"]
        out += [Text(REFERENCE_NOTE, "note"), Table(head, rows)]
    if any(name.startswith("pocket_") for name in run.tasks):
        out.append(Text(INVENTED_NOTE, "note"))
    return out


def _best(task: dict[str, Any]) -> str:
    """The metaprompt's largest score of a task and its metric; empty where it has none."""
    scores = [cell["mean"] for cell in task["methods"].get(OUR_METHOD, {}).values()]
    return f"{max(scores):.3f} ({task['metric']})" if scores else ""


def label_tables(run: Run) -> list[Block]:
    """Precision, recall and F1 of each label, a column for each method."""
    out: list[Block] = []
    for name, task in run.tasks.items():
        columns: dict[str, dict[str, Any]] = {}
        for method, shots in run.columns():
            cell = cell_of(task, method, shots)
            if cell and cell.get("labels"):
                columns[f"{method} {shots}"] = cell["labels"]
        if columns:
            out.append(Fold(f"{name}, by label", [_label_table(columns)]))
    return out


def _label_table(columns: dict[str, dict[str, Any]]) -> Table:
    """columns: METHOD SHOTS -> label -> numbers."""
    support: dict[str, float] = {}
    for by_label in columns.values():
        for label, numbers in by_label.items():
            support[label] = max(support.get(label, 0.0), numbers["support"])
    rows = []
    for label, most in support.items():
        row = [label, f"{most:.0f}"]
        for by_label in columns.values():
            row.append(_three(by_label.get(label)))
        rows.append(row)
    return Table(["label", "support", *(f"{column} (P R F1)" for column in columns)], rows)


def _three(numbers: dict[str, float] | None) -> str:
    """Empty for a label that is neither in the data nor in the answers."""
    if numbers is None or not (numbers["support"] or numbers["predicted"]):
        return ""
    return f"{numbers['precision']:.3f} {numbers['recall']:.3f} {numbers['f1']:.3f}"


def origin(run: Run) -> list[Block]:
    """Hashes, versions, date, configuration."""
    results = run.results
    rows = [["checkpoint", results.get("checkpoint", "not recorded")]]
    rows += [[name, value] for name, value in results.get("hashes", {}).items()]
    if "date" in results:
        rows.append(["evaluated", results["date"]])
    name, versions = "versions", results.get("versions")
    if not versions:
        name = "versions (of this report; the evaluation's were not recorded)"
        versions = made_with()["versions"]
    rows.append([name, ", ".join(f"{library} {version}" for library, version in versions.items())])
    out: list[Block] = [Table(["what", "identity"], rows, 2)]
    if run.config:
        text = yaml.safe_dump(run.config, sort_keys=False, allow_unicode=True)
        out.append(Fold("Configuration", [Code(text, "yaml")]))
    return out
