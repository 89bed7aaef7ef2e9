"""The two runs of a demo, in its shape: ten targets and 21 sources, as evaluations leave them."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from engine.evaluation.aggregate import average, summarise
from tests.engine.reported_run import results, write_run

DEMO_TARGETS = [f"pocket_a_target_with_name_{n}" for n in range(10)]
DEMO_SOURCES = [f"pocket_a_source_with_name_{n}" for n in range(21)]


def demo_results(role: str, seeds: tuple[int, ...] = (0, 1, 2), gain: float = 0.02) -> dict[str, Any]:
    """As the demo leaves them: ten targets with two methods at 0, 16 and all examples, or 21 sources and teachers."""
    names = DEMO_TARGETS if role == "target" else DEMO_SOURCES
    cards: Any = {n: SimpleNamespace(name=n, type="ner", metric="span_f1_strict") for n in names}
    cells = [("metaprompt", "full"), ("teacher", "full")]
    if role == "target":
        cells = [(method, shots) for method in ("metaprompt", "prompt_tuning") for shots in ("0", "16", "full")]
    rows = [demo_row(name, method, s, seed, gain) for name in names for method, s in cells for seed in seeds]
    rows += [demo_row(name, "instruction", "0", 0, gain) for name in names]
    found = summarise(rows, cards=cards, n_test=dict.fromkeys(names, 50), role=role)
    trained = {"metaprompt": {"count": 208, "percent": 0.0096}, "prompt_tuning": {"count": 3072, "percent": 0.14}}
    spent = {"0": {"tokens": 0.0, "device_hours": 0.0}, "16": {"tokens": 20_000.0, "device_hours": 0.0053}}
    return {
        **results(),
        **found,
        "average": average(found["tasks"]),
        "trainable": {**trained["metaprompt"], "methods": trained},
        "cost": {method: {"16": spent["16"]} for method in trained},
        "changes": [],
    }


def demo_row(name: str, method: str, shots: str, seed: int, gain: float) -> dict[str, Any]:
    value = {"0": 0.5, "16": 0.9, "full": 0.95}[shots] + 0.001 * seed
    if method == "metaprompt":
        value += gain + 0.001 * (seed % 2)
    label = {"precision": value, "recall": value, "f1": value, "support": 9, "predicted": 9}
    row = {"task": name, "method": method, "shots": shots, "seed": seed, "scores": {"span_f1_strict": value}}
    replicates = {"span_f1_strict": [value - 0.01, value, value + 0.01] * 30}
    return {
        **row,
        "best_step": 5,
        "n_dropped": 0,
        "n_truncated": 0,
        "replicates": replicates,
        "labels": dict.fromkeys(("problem", "drug", "test"), label),
    }


def write_demo(home: Path, **how: Any) -> list[Path]:
    """The two runs of a demo, the distillation first."""
    runs = []
    for name, role in (("distill", "source"), ("adapt", "target")):
        runs.append(write_run(home / name, demo_results(role, **how)))
    return runs
