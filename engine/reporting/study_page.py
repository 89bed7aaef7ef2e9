"""Write docs/evidence/results.md of a study: averages, comparisons, sweeps and matrices of the report in one page.
Its figures are SVG files beside it.

    python -m engine.reporting.study_page --study runs/study-llama --output docs/evidence/results.md

The page covers the evaluated cells of the study. report.html in the study's folder is the full report, with intervals
and tests of every task.
"""

import argparse
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from markupsafe import Markup

from engine.config import UNTRAINED, Rate
from engine.core import protect
from engine.evaluation import OUR_METHOD
from engine.reporting.blocks import Block, Cell, Figure, Section, Table, Text, markdown
from engine.reporting.comparisons import comparisons
from engine.reporting.data import Run, gather, mean_of, shots_value, source_of
from engine.reporting.figures import few_shot, transfer
from engine.reporting.sections import mean_cell, shots_of
from engine.reporting.verdict import trained_numbers
from engine.reporting.words import examples, score, with_spread
from strict_yaml import counted

HEAD = """# Results of the pocket study

```
make study        # few-shot curves of every method, with tuned learning rates
make study-full   # also ablations and matrices
```

Does a metaprompt help on tasks that it has not seen? The study measures this on invented notes \
(`clinical_tasks/pocket`).
The backbone is {backbone}, frozen.

- Metaprompts are distilled from 21 source tasks.
- Every method then trains on the same examples of each of ten unseen tasks, for the same number of steps and with \
{seeds}.
- Validation data select each learning rate, with a separate seed that is not reported \
([studies.md](../how_to/studies.md)).
- Test examples: {n_test}.

These tasks are small and similar. The results need not hold on clinical notes.
"""
BOTH = (
    "The metaprompt has two settings. With `train: factors` a task trains only its factors, (L + d)·R numbers. With "
    "`train: all` it also trains its own copy of P\\*. A score belongs to the setting that it was measured with. This "
    "table lists the few-shot runs. Beside them are the runs that differ from one only in setting or learning rate."
)
BASE, GAP, WIDEST = 20, 18, 800  # points; README pages are about this wide
STYLE = (Path(__file__).parent / "templates/report.css").read_text()


def write_page(study: Path, output: Path) -> None:
    """Write ``output`` and ``<stem>_<figure>.svg`` beside it.

    Raises:
        UserError: the study has no evaluated cell.
    """
    names = _evaluated(study)
    runs = gather([study / name for name in names], names)
    curves, matrices, others = [], [], []
    for run in runs:
        compares, transfers = few_shot(run) and len(run.methods()) > 2, run.columns(transfer=True)
        if compares:
            curves.append(run)
        if transfers:
            matrices.append(run)
        if not compares and not transfers:
            others.append(run)
    output.parent.mkdir(parents=True, exist_ok=True)
    parts = [_head((curves or runs)[0])]
    if curves:
        parts.append(markdown([Section("The metaprompt in both settings", list(_both_settings(curves, others)))]))
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


def _evaluated(study: Path) -> list[str]:
    """Folders of the study's adaptations that have results."""
    out = []
    for cell in json.loads((study / "study.json").read_text())["cells"]:
        if cell["mode"] == "adapt" and (study / cell["run"] / "results.json").exists():
            out.append(cell["run"])
    return out


def _head(run: Run) -> str:
    seeds, sizes = 0, set()
    for task in run.tasks.values():
        sizes.add(task["n_test"])
        for by_shots in task["methods"].values():
            seeds = max(seeds, *(len(cell["seeds"]) for cell in by_shots.values()))
    n_test = f"{min(sizes)} a task"
    if len(sizes) > 1:
        n_test = f"{min(sizes)} to {max(sizes)} a task"
    return HEAD.format(backbone=run.results["backbone"], seeds=counted(seeds, "seed"), n_test=n_test)


_ABLATIONS = (
    "This table averages the targets by cell, ± half the 95 % interval over seeds. `configs/pocket/study_full.yaml` "
    "defines the cells. All cells use the learning rates of the base configuration. A part that needs another rate is "
    "therefore not at its best here."
)


def _setting(run: Run) -> str:
    """`adapt.train` of a run, as a user writes it; empty where its configuration is not known."""
    train = run.config.get("adapt", {}).get("train", "")
    return f"`train: {train}`" if train else ""


def _both_settings(curves: Sequence[Run], others: Sequence[Run]) -> Iterator[Block]:
    """Scores of the few-shot runs, and of the runs that differ from one of them in `adapt.train` alone."""
    chosen: list[Run] = []
    alone: list[str] = []
    for curve in curves:
        alike = {
            _setting(run): run
            for run in others
            if trained_numbers(run, OUR_METHOD) and _conditions(run) == _conditions(curve)
        }
        chosen += [curve, *alike.values()]
        if alike.keys() <= {_setting(curve)}:
            alone.append(f"`{curve.name}`")
    shots = shots_of(chosen)
    rows: list[list[Cell | str]] = []
    for run in chosen:
        rate = "tuned" if run.results.get("tuning") else "not tuned"
        steps = str(run.config.get("adapt", {}).get("steps", ""))
        cells = [mean_cell(run, OUR_METHOD, s) for s in shots]
        rows.append([run.name, _setting(run), trained_numbers(run, OUR_METHOD), steps, rate, *cells])
    yield Text(BOTH)
    yield Table(["run", "setting", "trained numbers", "steps", "learning rate", *shots], rows, 2)
    if alone:
        yield Text(f"The study did not measure the other setting under the conditions of {', '.join(alone)}.")


def _conditions(run: Run) -> tuple[object, ...]:
    """What must be equal for two runs to differ in `adapt.train` alone; rates apart."""
    adapt, prompt = run.config.get("adapt", {}), run.config.get("prompt", {})
    return (
        adapt.get("steps"),
        adapt.get("init"),
        Path(adapt.get("source_run") or "").name,
        prompt.get("rank"),
        prompt.get("num_virtual_tokens"),
    )


def _curve_blocks(run: Run) -> Iterator[Block]:
    numbers = few_shot(run)[0].numbers  # type: ignore[union-attr]
    assert numbers is not None
    verdict, compared = comparisons(run)
    paired = (
        "A difference is the metaprompt minus the other method, averaged over the targets and paired by seed. Its "
        "interval uses Student's t over the seeds."
    )
    blocks: list[Block] = [
        Text("@@"),
        Text(
            "This table averages the targets, ± half the 95 % interval over seeds, by number of training examples. "
            f"The metaprompt trains with {_setting(run) or 'an unknown setting'}."
        ),
        numbers,
        Text(f"{verdict} {paired}"),
        compared,
        Text("Scores by task, with all examples or the most measured, ± the standard deviation over seeds:"),
        _by_task(run),
    ]
    if run.results.get("tuning"):
        told = (
            "The next table lists the candidate learning rates with the mean validation score of the targets. A star "
            "marks the chosen rate. Other numbers of examples use the rate of the nearest size. If the chosen rate is "
            "at an edge of the range, a better rate may exist beyond it."
        )
        blocks += [Text(told), _rates(run)]
    rows = []
    for method in run.results["trainable"]["methods"]:
        setting = _setting(run) if method in (OUR_METHOD, "multitask_prompt") else ""
        rows.append([method, setting, trained_numbers(run, method)])
    blocks.append(Table(["method", "setting", "numbers that one task trains"], rows, 2))
    yield Section(run.name, blocks)


def _rates(run: Run) -> Table:
    rows = []
    for method, by_shots in run.results["tuning"].items():
        for shots, tried in by_shots.items():
            shown = []
            for rate, value in zip(tried["rates"], tried["scores"], strict=True):
                shown.append(f"{Rate.of(rate)}: {value:.3f}")
            at_the_edge = len(shown) > 1 and tried["best"] in (0, len(shown) - 1)  # there may be a better one beyond
            shown[tried["best"]] += " *"
            if at_the_edge:
                shown[tried["best"]] += " (edge)"
            rows.append([method, shots, ", ".join(shown)])
    return Table(["method", "shots", "rate: score"], rows, 3)


def _by_task(run: Run) -> Table:
    methods = run.methods()
    rows = []
    for name, task in run.tasks.items():
        row = [name.removeprefix("pocket_"), task["metric"]]
        for method in methods:
            by_shots = task["methods"].get(method)
            if by_shots:
                cell = by_shots[max(by_shots, key=shots_value)]
                row.append(with_spread(cell["mean"], cell["std"]))
            else:
                row.append("")
        rows.append(row)
    return Table(["task", "metric", *methods], rows, 2)


def _by_cell(runs: Sequence[Run]) -> Table:
    shots = shots_of(runs)
    rows: list[list[Cell | str]] = []
    for run in runs:
        for method in run.averages():
            if not source_of(method) and method not in UNTRAINED:
                cells = [mean_cell(run, method, s) for s in shots]
                trained = trained_numbers(run, method)
                rows.append([run.name, str(len(run.tasks)), method, _setting(run), trained, *cells])
    return Table(["cell", "targets", "method", "setting", "trained numbers", *shots], rows, 4)


def _best_sources(run: Run) -> Iterator[Block]:
    """For each target the single source that helps most and least, at the fewest examples."""
    columns = run.columns(transfer=True)
    shots = min((s for _, s in columns), key=shots_value)
    rows = []
    for name, task in run.tasks.items():
        found = {}
        for method, s in columns:
            if s == shots and method in task["methods"]:
                found[source_of(method).removeprefix("pocket_")] = task["methods"][method][shots]["mean"]
        best, worst = max(found, key=lambda s: found[s]), min(found, key=lambda s: found[s])
        both = [f"{best} {found[best]:.3f}", f"{worst} {found[worst]:.3f}"]
        if found[best] == found[worst]:
            both = ["all alike", f"{found[best]:.3f}"]
        rows.append([name.removeprefix("pocket_"), *both, score(mean_of(task, "metaprompt", shots))])
    yield Text(
        f"For each target this table lists the best and the worst source at {examples(shots)}, beside all sources."
    )
    yield Table(["target", "best source", "worst source", "all sources"], rows, 4)


def _drawn(figure: Figure, output: Path, name: str) -> str:
    """The figure as a file beside the page. -> the Markdown that shows it."""
    file = output.with_name(f"{output.stem}_{re.sub('[^a-z0-9]+', '_', name.lower())}.svg")
    file.write_text(sheet(figure))
    return f"![{figure.title}]({file.name})"


def sheet(figure: Figure) -> str:
    """Charts side by side, as wide as a README page, with their legend: an SVG that stands alone and follows the
    reader's theme.
    """
    parts, x, y, tall, widest = [], 8.0, 4.0, 0.0, 0.0
    for mark, words in figure.keys:
        wide = 46 + 6.6 * len(words)
        if x + wide > WIDEST:
            x, y = 8.0, y + 20
        parts.append(_placed(mark, x, y) + f'<text x="{x + 32:.0f}" y="{y + 11:.0f}">{Markup.escape(words)}</text>')
        x += wide
        widest = max(widest, x)
    x, y = 0.0, y + 22
    for chart in figure.charts:
        width, height = _side(chart, "width"), _side(chart, "height")
        if x and x + width > WIDEST:
            x, y, tall = 0.0, y + tall + GAP, 0.0
        parts.append(_placed(chart, x, y))
        x, tall = x + width + GAP, max(tall, height)
        widest = max(widest, x - GAP)
    total = y + tall + BASE
    size = f'width="{widest:.0f}" height="{total:.0f}" viewBox="0 0 {widest:.0f} {total:.0f}"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="chart" {size} font-family="sans-serif" '
        f'font-size="11"><style>{STYLE}</style>'
        f'<rect width="100%" height="100%" style="fill: var(--paper)"/>{"".join(parts)}</svg>\n'
    )


def _side(chart: Markup, name: str) -> float:
    """width or height, as the chart's own first attribute of this name says."""
    found = re.search(rf'{name}="([\d.]+)"', chart)
    assert found is not None
    return float(found[1])


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
