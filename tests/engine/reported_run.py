"""A small run directory as evaluations leave it, with everything that a report can show."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import yaml

from engine.checkpoints import checkpoint
from engine.evaluation.aggregate import average, summarise

TARGETS = {"radnli": "nli", "pocket_medqa": "qa", "headqa": "qa"}
CARDS: Any = {n: SimpleNamespace(name=n, type=kind, metric="accuracy") for n, kind in TARGETS.items()}
GAIN = {
    "metaprompt": 0.1,
    "prompt_tuning": 0.0,
    "lora": 0.12,
    "metaprompt@task:mednli": 0.05,
    "metaprompt@task:emrqa": 0.15,
    "metaprompt@rank4": 0.08,
}

PAIR = {"target": "radnli", "source": "mednli", "test_documents": 20, "affected": 3, "by_id": 3, "train_examples": 4}


def scored(role: str = "target") -> dict[str, Any]:
    """Tasks: three methods and three variants at 4 and all examples, three seeds, resamples that agree with the
    scores.
    """
    rows = []
    for t, task in enumerate(TARGETS):
        for method, gain in GAIN.items():
            for place, shots in enumerate(("4", "full")):
                for seed in (0, 1, 2):
                    score = 0.5 + gain + 0.1 * place + 0.02 * t + 0.01 * ((seed + t + len(method)) % 3)
                    noise = np.random.default_rng(t).normal(0, 0.03, 200)  # documents are hard for all methods alike
                    labels = {"<yes>": {"precision": score, "recall": 1.0, "f1": score, "support": 3, "predicted": 4}}
                    rows.append(
                        {
                            "task": task,
                            "method": method,
                            "shots": shots,
                            "seed": seed,
                            "scores": {"accuracy": score},
                            "best_step": 5,
                            "n_dropped": 0,
                            "n_truncated": 0,
                            "replicates": {"accuracy": score + noise},
                            "labels": labels,
                        }
                    )
        written = {"task": task, "method": "instruction", "shots": "0", "seed": 0, "scores": {"accuracy": 0.4}}
        rows.append({**written, "best_step": 0, "n_dropped": 1, "n_truncated": 0})
    return summarise(rows, cards=CARDS, n_test=dict.fromkeys(TARGETS, 20), role=role)


def results() -> dict[str, Any]:
    found = scored()
    methods = {
        "metaprompt": {"count": 80, "percent": 0.01},
        "lora": {"count": 40_000, "percent": 1.8},
        "prompt_tuning": {"count": 3072, "percent": 0.14},
    }
    spent = {
        m: {s: {"tokens": 1000.0 * n, "device_hours": 0.01 * n} for n, s in enumerate(("4", "full"), 1)}
        for m in methods
    }
    rates: dict[str, list[Any]] = {
        "metaprompt": [{"lr_task": 0.1, "relative_lr_shared": 0.3}, {"lr_task": 0.3, "relative_lr_shared": 0.3}],
        "lora": [0.001, 0.01],
    }
    return {
        "checkpoint": "c" * 64,
        **found,
        "average": average(found["tasks"]),
        "backbone": "tiny & <small>",
        "date": "2026-01-02 03:04 UTC",
        "versions": {"torch": "9.9.9"},
        "hashes": {"data": "d" * 64},
        "trainable": {"count": 80, "percent": 0.01, "methods": methods},
        "cost": spent,
        "tuning": {m: {"full": {"rates": r, "scores": [0.61, 0.62], "best": 1}} for m, r in rates.items()},
        "changes": [
            "step 5: config.adapt.steps: the checkpoint has 5, this run 6; read from '/home/someone/secret/notes.txt'"
        ],
        "overlap": {"targets": ["radnli"], "excluded": False, "dropped": {}, "unchecked": ["headqa"], "pairs": [PAIR]},
    }


def bank() -> tuple[dict[str, torch.Tensor], list[dict[str, Any]]]:
    """Prompts of four metaprompt rows and two of prompt tuning (L = 2, D = 3), and what the rows are."""
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    rows = [
        {"task": t, "method": "metaprompt", "shots": s, "seed": 0} for t in ("radnli", "headqa") for s in ("4", "full")
    ]
    rows += [{"task": t, "method": "prompt_tuning", "shots": "full", "seed": 0} for t in ("radnli", "headqa")]
    parts = {
        "metaprompt.shared_SLD": draw(1, 2, 3),
        "metaprompt.cols_KLR": draw(4, 2, 1),
        "metaprompt.rows_KRD": draw(4, 1, 3),
        "prompt_tuning.prompts_KLD": draw(2, 2, 3),
    }
    return {f"{kind}parts.{n}": v.clone() for kind in ("", "best.") for n, v in parts.items()}, rows


def write_run(folder: Path, found: dict[str, Any] | None = None) -> Path:
    """results.json, metrics.jsonl of the run, its teachers and a sweep, config.yaml, a finished checkpoint, a
    protected prediction.
    """
    tensors, rows = bank()
    for sub, steps in (("", 6), ("teachers", 4), ("lr_sweep/0", 3)):
        (folder / sub).mkdir(parents=True, exist_ok=True)
        logged = [
            {
                "step": n,
                "loss": 2.0 / n**3,
                "ce": 1.5 / n**3,
                "kl": 0.5 / n**3,
                "hidden": 0.0,
                "lr": 0.1,
                "tokens_per_s": 100,
            }
            for n in range(1, steps)
        ]
        (folder / sub / "metrics.jsonl").write_text("\n".join([*map(json.dumps, logged), '{"step": 9, "lo']))
    (folder / "results.json").write_text(json.dumps(results() if found is None else found))
    settings = {
        "run_dir": "/home/someone/runs/a",
        "backbone": "cards/tiny.yaml",
        "data": {"root": "/data/secret/corpora"},
        "adapt": {"shots": ["4", "full"]},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    (folder / "predictions").mkdir()
    (folder / "predictions/x.jsonl").write_text('{"example_id": "patient-77", "answer": "a note"}\n')
    checkpoint.save(
        folder, 5, checkpoint.Checkpoint(tensors, {}, {"stage": "adapt", "rows": rows, "progress": {}, "hashes": {}}), 1
    )
    (folder / "COMPLETED").touch()
    return folder
