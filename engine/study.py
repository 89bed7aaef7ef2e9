"""The pocket study: a metaprompt against prompt tuning on ten unseen tasks, both tuned on validation data with equal effort.

    python -m engine.study --output runs/study --report docs/results.md

Distils once, then adapts to every target at each number of shots and for each number of steps. Each method tries as many learning rates, on
validation data and with a seed of its own; the best for a number of steps and shots, by the mean over the targets, is used for the seeds
that are reported, on test data. Every part is a run directory under --output: killed, the same command goes on where it was.
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from clinical_tasks.pocket import write_pocket_corpus
from engine.protection import protect
from engine.results import T95
from engine.study_report import write_study

METHODS = ("metaprompt", "prompt_tuning")
SHOTS = ("16", "64", "full")
STEPS = (5, 100)  # of the adaptation: hardly any, and what both methods converge in
SEEDS = (0, 1, 2)
TUNING_SEED = 100
DATA = Path("runs/pocket/data")  # where configs/pocket/ look
# peak learning rates: of the factors and P* (trained together), and of the prompt
GRID: dict[str, tuple[dict[str, float], ...]] = {
    "metaprompt": tuple({"lr_task": lr, "lr_shared": lr} for lr in (0.01, 0.03, 0.1, 0.3)),
    "prompt_tuning": tuple({"lr_prompt": lr} for lr in (0.01, 0.03, 0.1, 0.3)),
}


def train(mode: str, *flags: str) -> None:
    """train.py in two processes; its own messages tell what went wrong.

    Raises:
        SystemExit: it failed.
    """
    done = subprocess.run([str(Path(sys.executable).with_name("torchrun")), "--nproc_per_node", "2", "--", "train.py", mode, *flags])
    if done.returncode:
        sys.exit(f"study: {mode} failed; the message stands above. Mend it and give the same command again: what is finished stays")


def adapted(
    folder: Path, distilled: Path, backbone: str, steps: int, shots: Sequence[str], seeds: Sequence[int], rates: Mapping[str, float], split: str
) -> dict[str, Any]:
    """Adapt and evaluate, unless that is done; the results."""
    settings = {"steps": steps, "warmup_steps": min(10, steps // 5), "shots": ",".join(shots), "seeds": ",".join(map(str, seeds)), "train": "all", **rates}
    rows = [f"--adapt.{k}={v}" for k, v in settings.items()]
    where = [f"--run_dir={folder}", f"--adapt.source_run={distilled}", f"--backbone={backbone}"]
    train("adapt", "--config=configs/pocket/adapt.yaml", *where, *rows)
    file = folder / ("results.json" if split == "test" else f"results_{split}.json")
    if not file.exists():
        train("evaluate", f"--run={folder}", f"--evaluate.split={split}", "--evaluate.instruction=false")
    results: dict[str, Any] = json.loads(file.read_text())
    return results


def best_rates(tuning: Sequence[dict[str, Any]]) -> dict[str, dict[str, int]]:
    """method -> shots -> which entry of the method's grid has the highest mean score over the targets on validation data."""
    return {
        method: {shots: max(range(len(tuning)), key=lambda i: tuning[i]["average"][method][shots]) for shots in tuning[0]["average"][method]}
        for method in METHODS
    }


def compare(tasks: Mapping[str, Any], shots: str) -> dict[str, Any]:
    """Averages over the targets, seed by seed, and their difference with its 95 % interval (Student's t, paired by seed)."""
    values = {m: [statistics.fmean(t["methods"][m][shots]["values"][s] for t in tasks.values()) for s in range(len(SEEDS))] for m in METHODS}
    differences = [a - b for a, b in zip(*values.values(), strict=True)]
    half = T95[len(SEEDS) - 1] * statistics.stdev(differences) / len(SEEDS) ** 0.5
    mean = statistics.fmean(differences)
    means = {m: {name: t["methods"][m][shots]["mean"] for name, t in tasks.items()} for m in METHODS}
    return {
        "averages": {m: statistics.fmean(v) for m, v in values.items()}, "difference": mean, "interval": [mean - half, mean + half],
        "won": sum(means["metaprompt"][t] > means["prompt_tuning"][t] for t in tasks),
        "lost": sum(means["metaprompt"][t] < means["prompt_tuning"][t] for t in tasks),
    }  # fmt: skip


def budget(folder: Path, distilled: Path, backbone: str, steps: int) -> dict[str, Any]:
    """Both methods tuned and compared, each row trained ``steps`` steps."""
    tuning = []
    for number, rates in enumerate(zip(*GRID.values(), strict=True)):
        merged = {k: v for rate in rates for k, v in rate.items()}
        tuning.append(adapted(folder / f"tune-{number}", distilled, backbone, steps, SHOTS, [TUNING_SEED], merged, "validation"))
    best = best_rates(tuning)
    tasks: dict[str, Any] = {}
    for shots in SHOTS:
        merged = {k: v for m in METHODS for k, v in GRID[m][best[m][shots]].items()}
        found = adapted(folder / f"shots-{shots}", distilled, backbone, steps, [shots], SEEDS, merged, "test")
        for name, task in found["tasks"].items():
            kept = tasks.setdefault(name, {**task, "methods": {m: {} for m in METHODS}})
            for method in METHODS:
                kept["methods"][method][shots] = task["methods"][method][shots]
    comparison = {shots: compare(tasks, shots) for shots in SHOTS}
    return {"backbone": found["backbone"], "best": best, "tuning": [t["average"] for t in tuning], "tasks": tasks, "comparison": comparison}


def main() -> None:
    """Run what is missing of the study, and write its report."""
    protect()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("--backbone", default="backbones/pocket/llama.yaml", help="backbone card")
    parser.add_argument("--output", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--report", type=Path, required=True, help="Markdown file; its figure is written beside it")
    parser.add_argument("--steps", type=int, nargs="+", default=STEPS, help="steps of an adaptation; one comparison each")
    a = parser.parse_args()
    write_pocket_corpus(DATA)  # seconds, and the same bytes each time
    distilled = a.output / "distill"
    train("distill", "--config=configs/pocket/distill.yaml", f"--run_dir={distilled}", f"--backbone={a.backbone}")
    budgets = {str(steps): budget(a.output / f"steps-{steps}", distilled, a.backbone, steps) for steps in a.steps}
    outcome = {"backbone": next(iter(budgets.values())).pop("backbone"), "seeds": SEEDS, "grid": GRID, "budgets": budgets}
    (a.output / "study.json").write_text(json.dumps(outcome, indent=1) + "\n")
    write_study(outcome, a.report)
    print(f"study: {a.report}, figures from {a.output / 'study.json'}")


if __name__ == "__main__":
    main()
