"""docs/results.md of a study: the report's averages, comparisons, sweeps and matrices in one page, its figures as SVG
files beside it.

    python -m engine.reporting.study_page --study runs/study-llama --output docs/results.md

Whatever cells are evaluated stand in it; the full report, with every task's intervals and tests, is report.html in the
study's folder.
"""

import argparse
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from markupsafe import Markup

from engine.config import UNTRAINED, Rate
from engine.core import protect
from engine.reporting.blocks import Block, Cell, Figure, Section, Table, Text, markdown
from engine.reporting.data import Run, gather, shots_value, source_of
from engine.reporting.figures import few_shot, transfer
from engine.reporting.sections import comparisons, mean_cell

HEAD = """# What the methods reach on invented notes

```
make study        # few-shot curves of every method, each tuned; make study-full adds ablations and matrices
```

Invented notes (`clinical_tasks/pocket`), backbone {backbone}, frozen. Metaprompts are distilled from 21 source tasks; then every method trains on the same
examples of each of ten unseen tasks, as many steps, with {seeds} seeds, its learning rate chosen on validation data with a seed that is not reported
([how](studies.md)). Test examples: {n_test}. These tasks are small and alike; what holds here need not hold on clinical notes.
"""
BASE, GAP, ACROSS = 20, 18, 3  # points
STYLE = (Path(__file__).parent / "templates/report.css").read_text()


def write_page(study: Path, output: Path) -> None:
    """Write ``output`` and ``<stem>_<figure>.svg`` beside it.

    Raises:
        UserError: the study has no evaluated cell.
    """
    cells = [
        c
        for c in json.loads((study / "study.json").read_text())["cells"]
        if c["mode"] == "adapt" and (study / c["run"] / "results.json").exists()
    ]
    runs = gather([study / c["run"] for c in cells], [c["run"] for c in cells])
    curves = [r for r in runs if few_shot(r) and len({m for m, _ in r.columns()}) > 2]
    matrices = [r for r in runs if r.columns(transfer=True)]
    others = [r for r in runs if r not in curves and r not in matrices]
    output.parent.mkdir(parents=True, exist_ok=True)
    first = (curves or runs)[0]
    seeds = max(
        len(cell["seeds"]) for t in first.tasks.values() for by in t["methods"].values() for cell in by.values()
    )
    sizes = sorted({t["n_test"] for t in first.tasks.values()})
    n_test = f"{sizes[0]} a task" if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]} a task"
    parts = [HEAD.format(backbone=first.results["backbone"], seeds=seeds, n_test=n_test)]
    for run in curves:
        drawn = _drawn(few_shot(run)[0], output, run.name)  # type: ignore[arg-type]
        parts.append(markdown(list(_curve_blocks(run))).replace("@@", drawn))
    if others:
        parts.append(markdown([Section("Parts of the method", [Text(_ABLATIONS), _by_cell(others)])]))
    for run in matrices:
        figure = transfer(run)[0]
        assert isinstance(figure, Figure)
        page = markdown([Section("One source at a time", [Text(figure.caption), Text("@@"), *_best_sources(run)])])
        parts.append(page.replace("@@", _drawn(figure, output, run.name)))
    output.write_text("\n".join(part.rstrip() + "\n" for part in parts))


_ABLATIONS = (
    "Averages of the targets by cell, ± half the 95 % interval over seeds; protocols in "
    "`configs/pocket/study_full.yaml`. Learning rates are those of the base "
    "configuration, the same for every cell: a part that would like another rate is not at its best here."
)


def _curve_blocks(run: Run) -> Iterator[Block]:
    numbers = few_shot(run)[0].numbers  # type: ignore[union-attr]
    assert numbers is not None
    verdict, compared = comparisons(run)
    blocks: list[Block] = [
        Text("@@"),
        Text("Average of the targets, ± half the 95 % interval over seeds, by number of training examples."),
        numbers,
    ]
    blocks += [
        Text(
            verdict
            + (
                " Difference: the metaprompt minus the other, averaged over the targets, paired by seed; Student's t "
                "over the seeds."
            )
        ),
        compared,
    ]
    blocks += [Text("By task, all examples or the most there are, ± the standard deviation over seeds."), _by_task(run)]
    if run.results.get("tuning"):
        told = (
            "Learning rates that were tried, with the mean validation score of the targets; * was used (at sizes "
            "that were not tried, the nearest "
            "size's); beyond an edge there may be a better one."
        )
        blocks += [Text(told), _rates(run)]
    counts = ", ".join(f"{m} {t['count']:,}" for m, t in run.results["trainable"]["methods"].items())
    blocks.append(Text(f"Numbers that one task trains: {counts}."))
    yield Section(run.name, blocks)


def _rates(run: Run) -> Table:
    rows = []
    for method, by_shots in run.results["tuning"].items():
        for shots, tried in by_shots.items():
            shown = [
                f"{Rate.of(rate)}: {score:.3f}" for rate, score in zip(tried["rates"], tried["scores"], strict=True)
            ]
            at_the_edge = len(shown) > 1 and tried["best"] in (0, len(shown) - 1)  # there may be a better one beyond
            shown[tried["best"]] += " * (edge)" if at_the_edge else " *"
            rows.append([method, shots, ", ".join(shown)])
    return Table(["method", "shots", "rate: score"], rows, 3)


def _by_task(run: Run) -> Table:
    methods = list(dict.fromkeys(m for m, _ in run.columns()))
    rows = []
    for name, task in run.tasks.items():
        cells: list[Cell | str] = []
        for method in methods:
            by = task["methods"].get(method, {})
            best = max(by, key=shots_value, default="")
            cells.append(
                ""
                if not by
                else f"{by[best]['mean']:.3f}" + (f" ± {by[best]['std']:.3f}" if by[best]["std"] is not None else "")
            )
        rows.append([name.removeprefix("pocket_"), task["metric"], *cells])
    return Table(["task", "metric", *methods], rows, 2)


def _by_cell(runs: Sequence[Run]) -> Table:
    shots = sorted({s for r in runs for by in r.averages().values() for s in by}, key=shots_value)
    rows = [
        [r.name, str(len(r.tasks)), method, *(mean_cell(r, method, s) if s in by else "" for s in shots)]
        for r in runs
        for method, by in r.averages().items()
        if not source_of(method) and method not in UNTRAINED
    ]
    return Table(["cell", "targets", "method", *shots], rows, 3)


def _best_sources(run: Run) -> Iterator[Block]:
    """Of each target the single source that helps most and least, at the fewest examples."""
    columns = run.columns(transfer=True)
    shots = min((s for _, s in columns), key=shots_value)
    rows = []
    for name, task in run.tasks.items():
        found = {
            source_of(m): task["methods"][m][shots]["mean"] for m, s in columns if s == shots and m in task["methods"]
        }
        best, worst = max(found, key=lambda s: found[s]), min(found, key=lambda s: found[s])
        every = task["methods"].get("metaprompt", {}).get(shots)
        both = (
            ["all alike", f"{found[best]:.3f}"]
            if found[best] == found[worst]
            else [f"{s.removeprefix('pocket_')} {found[s]:.3f}" for s in (best, worst)]
        )
        rows.append([name.removeprefix("pocket_"), *both, "" if every is None else f"{every['mean']:.3f}"])
    yield Text(f"Of each target the best and the worst source at {shots} examples, and all sources together.")
    yield Table(["target", "best source", "worst source", "all sources"], rows, 4)


def _drawn(figure: Figure, output: Path, name: str) -> str:
    """The figure as a file beside the page. -> the Markdown that shows it."""
    file = output.with_name(f"{output.stem}_{re.sub('[^a-z0-9]+', '_', name.lower())}.svg")
    file.write_text(sheet(figure))
    return f"![{figure.title}]({file.name})"


def sheet(figure: Figure) -> str:
    """Charts side by side with their legend, as an SVG that stands alone and follows the reader's theme."""
    parts, x, y, tall, widest = [], 8.0, 26.0, 0.0, 0.0
    for mark, words in figure.keys:
        parts.append(_placed(mark, x, 4) + f'<text x="{x + 32:.0f}" y="15">{Markup.escape(words)}</text>')
        x += 46 + 6.6 * len(words)
        widest = max(widest, x)
    x = 0.0
    for number, chart in enumerate(figure.charts):
        width, height = (float(re.search(rf'{side}="([\d.]+)"', chart)[1]) for side in ("width", "height"))  # type: ignore[index]
        if number and number % ACROSS == 0:
            x, y, tall = 0.0, y + tall + GAP, 0.0
        parts.append(_placed(chart, x, y))
        x, tall = x + width + GAP, max(tall, height)
        widest = max(widest, x)
    total = y + tall + BASE
    size = f'width="{widest:.0f}" height="{total:.0f}" viewBox="0 0 {widest:.0f} {total:.0f}"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="chart" {size} font-family="sans-serif" '
        f'font-size="11"><style>{STYLE}</style>'
        f'<rect width="100%" height="100%" style="fill: var(--paper)"/>{"".join(parts)}</svg>\n'
    )


def _placed(svg: Markup, x: float, y: float) -> str:
    return str(svg).replace("<svg ", f'<svg x="{x:.0f}" y="{y:.0f}" ', 1)


def main() -> None:
    protect()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--study", type=Path, required=True, help="folder of a study")
    parser.add_argument("--output", type=Path, required=True, help="Markdown file; its figures are written beside it")
    a = parser.parse_args()
    write_page(a.study, a.output)
    print(f"study: {a.output}")


if __name__ == "__main__":
    main()
