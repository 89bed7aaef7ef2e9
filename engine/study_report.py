"""The pocket study as a Markdown page with a figure beside it (SVG, no library needed)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from engine.report import table

NAMES = {"metaprompt": "metaprompt", "prompt_tuning": "prompt tuning"}
COLOURS = {"metaprompt": "#1b6ca8", "prompt_tuning": "#c0c0c0"}
BAR, GAP, LEFT = 13, 16, 250  # points


def write_study(outcome: Mapping[str, Any], path: Path) -> None:
    """Write ``path`` and, beside it, ``<stem>.svg``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure = path.with_suffix(".svg")
    figure.write_text(draw(outcome))
    path.write_text(text_of(outcome, figure.name, path))


def text_of(outcome: Mapping[str, Any], figure: str, path: Path) -> str:
    """The page: what was compared, averages with intervals, every task, and how the learning rates were chosen."""
    seeds = len(outcome["seeds"])
    averages = [["adaptation steps", "shots", *NAMES.values(), "difference", "95 % interval", "targets won / lost"]]
    for steps, found in outcome["budgets"].items():
        for shots, c in found["comparison"].items():
            low, high = c["interval"]
            averages.append([steps, shots, *(f"{c['averages'][m]:.3f}" for m in NAMES), f"{c['difference']:+.3f}", f"{low:+.3f} to {high:+.3f}",
                             f"{c['won']} / {c['lost']}"])  # fmt: skip
    return f"""# Metaprompt and prompt tuning on ten unseen tasks

```
make study    # or: python -m engine.study --output runs/study --report {path}
```

Invented notes (`clinical_tasks/pocket`), backbone {outcome["backbone"]}, frozen. The metaprompt is distilled from 21 source tasks; then both
methods train on the same examples of each of ten target tasks, as many steps, with {seeds} seeds, and are scored on the same test examples. The
metaprompt trains P*, U and V (`adapt.train: all`), prompt tuning a prompt of the same length that starts from the vocabulary.

![scores by task]({figure})

{table(averages)}
The difference is paired by seed (same few-shot examples); its interval is Student's t over {seeds} seeds, which says nothing of other tasks.
{"".join(_budget_text(outcome, steps) for steps in outcome["budgets"])}"""


def _budget_text(outcome: Mapping[str, Any], steps: str) -> str:
    found = outcome["budgets"][steps]
    columns = [(m, s) for s in found["comparison"] for m in NAMES]
    tasks = [["task", "metric", *(f"{NAMES[m]} {s}" for m, s in columns)]]
    for name, task in found["tasks"].items():
        cells = [task["methods"][m][s] for m, s in columns]
        tasks.append([name.removeprefix("pocket_"), task["metric"], *(f"{c['mean']:.3f} ± {c['std']:.3f}" for c in cells)])
    tuned = [["method", "learning rates", *(f"validation {s}" for s in found["comparison"])]]
    for method in NAMES:
        for number, rates in enumerate(outcome["grid"][method]):
            scores = [f"{found['tuning'][number][method][s]:.3f}" + (" *" if found["best"][method][s] == number else "") for s in found["comparison"]]
            tuned.append([NAMES[method], ", ".join(f"{k} {v:g}" for k, v in rates.items()), *scores])
    return f"""
## After {steps} steps

{table(tasks)}
Mean and standard deviation over seeds. How the learning rates were chosen: each method tried equally many on validation data with a seed that is
not reported; * marks the best mean over the ten targets, which was used.

{table(tuned)}"""


def draw(outcome: Mapping[str, Any]) -> str:
    """Horizontal bars, a panel for each number of steps and shots."""
    budgets = outcome["budgets"]
    names = list(next(iter(budgets.values()))["tasks"])
    panels = [(steps, shots) for steps, found in budgets.items() for shots in found["comparison"]]
    panel, row = 190, 2 * BAR + GAP
    height = 60 + row * len(names)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{LEFT + len(panels) * panel}" height="{height}" font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="white"/>',
    ]
    for number, (steps, shots) in enumerate(panels):
        x = LEFT + number * panel
        label = (f"{shots} examples" if shots != "full" else "all examples") + f", {steps} steps"
        parts.append(f'<text x="{x}" y="20" font-weight="bold">{label}</text>')
        for index, name in enumerate(names):
            y = 40 + index * row
            if not number:
                parts.append(f'<text x="{LEFT - 8}" y="{y + BAR + 4}" text-anchor="end">{escape(name.removeprefix("pocket_"))}</text>')
            for place, method in enumerate(NAMES):
                mean = budgets[steps]["tasks"][name]["methods"][method][shots]["mean"]
                top = y + place * BAR
                parts.append(f'<rect x="{x}" y="{top}" width="{mean * (panel - 60):.1f}" height="{BAR - 1}" fill="{COLOURS[method]}"/>')
                parts.append(f'<text x="{x + mean * (panel - 60) + 4:.1f}" y="{top + BAR - 3}" font-size="10">{mean:.2f}</text>')
    for place, method in enumerate(NAMES):
        x = 10 + place * 110
        parts.append(f'<rect x="{x}" y="10" width="12" height="12" fill="{COLOURS[method]}"/><text x="{x + 16}" y="20">{NAMES[method]}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"
