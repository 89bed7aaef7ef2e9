"""What results say of a run beside its scores: how many numbers a task trained, what its rows cost, which learning
rates were tried.
"""

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prompt_modules import JoinedBank

TUNING = "lr_sweep/tuning.json"  # in a run directory


def trainable_counts(bank: JoinedBank, with_shared: bool, total: int) -> dict[str, Any]:
    """Numbers that one adapted task trains, by method; ``count`` is the metaprompt's, where there is one."""
    counts = {}
    for method, part in bank.parts.items():
        if method == "sum":  # sums of prompts train nothing
            continue
        counts[method] = 0
        for name, parameter in part.named_parameters():
            if name != "shared_SLD" or with_shared:
                counts[method] += parameter[0].numel()
    methods = {m: {"count": n, "percent": 100 * n / total} for m, n in counts.items()}
    first = methods.get("metaprompt") or next(iter(methods.values()), {"count": 0, "percent": 0.0})
    return {**first, "methods": methods}


def cost_and_tuning(run_dir: Path, rows: Sequence[Mapping[str, Any]], progress: Mapping[str, Any]) -> dict[str, Any]:
    """``cost`` and ``tuning``, where the run has them.

    Cost is METHOD -> SHOTS -> tokens, the real ones that a row was trained on, mean over rows, and device_hours: all
    rows train in one pass, whose device time is shared out by tokens.
    """
    out: dict[str, Any] = {}
    cost = _cost(run_dir / "metrics.jsonl", rows, progress.get("row_tokens", []))
    if cost:
        out["cost"] = cost
    if (run_dir / TUNING).is_file():
        out["tuning"] = json.loads((run_dir / TUNING).read_text())
    return out


def _cost(
    metrics: Path, rows: Sequence[Mapping[str, Any]], tokens: Sequence[int]
) -> dict[str, dict[str, dict[str, float]]]:
    if not sum(tokens) or not metrics.is_file():
        return {}
    seconds = sum(json.loads(line).get("device_seconds") or 0.0 for line in metrics.read_text().splitlines())
    cells: dict[tuple[str, str], list[int]] = {}
    for row, n in zip(rows, tokens, strict=True):
        if n:
            cells.setdefault((row["method"], row["shots"]), []).append(n)
    out: dict[str, dict[str, dict[str, float]]] = {}
    for (method, shots), each in cells.items():
        mean = statistics.fmean(each)
        out.setdefault(method, {})[shots] = {"tokens": mean, "device_hours": mean / sum(tokens) * seconds / 3600}
    return out
