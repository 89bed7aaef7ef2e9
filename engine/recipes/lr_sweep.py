"""Learning rates chosen on validation data: every rate of every method is a row of one bank, trained in one pass.

The score of a rate is the mean over the tasks of their official metrics, for each method and number of shots. Rates of
equal score are told apart by their cross-entropy, which still differs where a metric is at its ceiling or at zero. Left
in run_dir/tune.
"""

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import clinical_tasks
from engine import checkpoints, telemetry
from engine.checkpoints import load_bank
from engine.config import Rate, check_hashes
from engine.core import write_atomic
from engine.data import TaskData
from engine.distributed import gather_objects
from engine.evaluation import TUNING, Predictor
from engine.training import (
    Rates,
    RunContext,
    Source,
    Stage,
    adapt_rows,
    adapt_stage,
    teach_sweep,
    trained_methods,
    validation_losses,
)

EQUAL = 1e-9  # scores this close are one score


def chosen_rates(run_context: RunContext, data: dict[str, TaskData], sources: Mapping[str, Source]) -> Rates:
    """Of an adaptation: train and score what is not yet, in run_dir/tune. A collective.

    Raises:
        UserError: the sweep there is of another configuration.
    """
    c = run_context.config
    if not adapt_rows(c, data, tuning=True):
        return {}
    table = _sweep(run_context, adapt_stage(run_context, data, sources, tuning=True), data, len(c.adapt.targets))
    methods = [m for m in trained_methods(c.adapt.methods) if m in table]
    return {(m, shots): _nearest(table[m], shots) for m in methods for shots in c.adapt.shots if shots != "0"}


def chosen_teach_rate(run_context: RunContext, data: dict[str, TaskData]) -> float | None:
    """Of a distillation's teachers, in multiples of the embeddings' RMS; None where none are to be tried. A collective.

    Raises:
        UserError: the sweep there is of another configuration.
    """
    c = run_context.config
    if not c.lr_sweep.relative_lr_teach:
        return None
    table = _sweep(run_context, teach_sweep(run_context, data), data, len(c.distill.tasks))
    return _nearest(table["teacher"], "full").own


def _sweep(
    run_context: RunContext, stage: Stage, data: dict[str, TaskData], tasks: int
) -> dict[str, dict[str, dict[str, Any]]]:
    """Train a sweep's rows unless they are there, score them, say and keep the table."""
    c, folder = run_context.config, run_context.run_dir / "lr_sweep"
    done = checkpoints.load(folder) if (folder / "COMPLETED").exists() and not c.overwrite else None
    if done is not None:
        for line in check_hashes(done.state["hashes"], stage.hashes, folder, c.accept_changes):
            run_context.print_rank0(f"WARNING {folder}: kept although it changed: {line}")
        run_context.print_rank0(f"learning rates: reused from {folder}")
    else:
        run_context.train(stage, run_context.open_run_dir(folder, stage.hashes))
        run_context.complete(folder)
    with telemetry.exit_on_signal():
        scored = _scores(run_context, folder, data)
    table = summary(scored, tasks)
    for line in told(table):
        run_context.print_rank0(line)
    if run_context.is_main_process:
        write_atomic(run_context.run_dir / TUNING, json.dumps(table, indent=1))
    return table


def summary(scored: Sequence[dict[str, Any]], tasks: int) -> dict[str, dict[str, dict[str, Any]]]:
    """Rows (method, shots, rate, score, cross_entropy) of every task -> the table of a sweep.

    The best is the highest mean score; of equal ones, the lowest mean cross-entropy.
    """
    cells: dict[tuple[str, str], dict[str, list[dict[str, Any]]]] = {}
    for row in scored:
        by_rate = cells.setdefault((row["method"], row["shots"]), {})
        by_rate.setdefault(json.dumps(row["rate"]), []).append(row)
    out: dict[str, dict[str, dict[str, Any]]] = {}
    for (method, shots), by_rate in cells.items():
        if any(len(rows) != tasks for rows in by_rate.values()):
            raise AssertionError("a rate was not scored on every task")
        scores = [statistics.fmean(row["score"] for row in rows) for rows in by_rate.values()]
        losses = [_mean_loss(rows) for rows in by_rate.values()]
        equal = [n for n, score in enumerate(scores) if score >= max(scores) - EQUAL]
        best = min(equal, key=lambda n: _or_infinite(losses[n]))
        rates = [json.loads(rate) for rate in by_rate]
        out.setdefault(method, {})[shots] = {"rates": rates, "scores": scores, "cross_entropies": losses, "best": best}
    return out


def _or_infinite(loss: float | None) -> float:
    return math.inf if loss is None else loss


def _mean_loss(rows: Sequence[Mapping[str, Any]]) -> float | None:
    """None where a row's cross-entropy is not finite: JSON has no word for it."""
    losses = [row["cross_entropy"] for row in rows]
    return None if None in losses else statistics.fmean(losses)


def told(table: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> list[str]:
    """Log lines of a sweep's table, with a warning for each cell in which the scores choose nothing."""
    lines = []
    for method, by_shots in table.items():
        for shots, tried in by_shots.items():
            pairs = []
            for n, (rate, score, loss) in enumerate(
                zip(tried["rates"], tried["scores"], tried["cross_entropies"], strict=True)
            ):
                used = " *" if n == tried["best"] else ""
                pairs.append(f"{Rate.of(rate)} {score:.3f} ({_shown(loss)}){used}")
            lines.append(
                f"learning rates of {method} at {shots}, mean validation score (cross-entropy) of the tasks: "
                f"{', '.join(pairs)}"
            )
            if len(pairs) > 1 and max(tried["scores"]) - min(tried["scores"]) <= EQUAL:
                chosen = Rate.of(tried["rates"][tried["best"]])
                lines.append(
                    f"WARNING learning rates of {method} at {shots}: all {len(pairs)} have the score "
                    f"{tried['scores'][0]:.3f}; "
                    f"{chosen} is taken for its cross-entropy. More steps or more validation examples tell them apart"
                )
    return lines


def _shown(loss: float | None) -> str:
    return "not finite" if loss is None else f"{loss:.3f}"


def _nearest(by_shots: Mapping[str, Mapping[str, Any]], shots: str) -> Rate:
    """The best rate of the number of shots that is nearest by ratio."""
    size = lambda s: math.inf if s == "full" else math.log(int(s))  # noqa: E731
    tried = by_shots.get(shots)
    if tried is None:
        tried = min(by_shots.items(), key=lambda pair: abs(min(size(pair[0]), 1e9) - min(size(shots), 1e9)))[1]
    return Rate.of(tried["rates"][tried["best"]])


def _scores(run_context: RunContext, folder: Path, data: dict[str, TaskData]) -> list[dict[str, Any]]:
    """Every row's metric on its task's validation split; those that stand in scores.jsonl are not asked again."""
    bank, found = load_bank(folder, "sweep")
    bank = bank.to(run_context.backbone().device)
    file, key = folder / "scores.jsonl", found.identity
    known = gather_objects(_read(file, key))[0]  # all ranks do as rank 0 finds
    if run_context.is_main_process:
        write_atomic(file, "".join(json.dumps(line) + "\n" for line in known.values()))
    asker, out = Predictor(run_context.on("validation"), bank), []
    rows = found.state["rows"]
    unknown = {k: data[row["task"]].splits["validation"] for k, row in enumerate(rows) if str(k) not in known}
    losses = validation_losses(run_context.forward_backward(), bank, unknown)
    for k, row in enumerate(rows):
        line = known.get(str(k))
        if line is None:
            task = data[row["task"]]
            answers = asker.answers(task, k)
            outcome = clinical_tasks.evaluate(task.card, task.splits["validation"].examples(), answers, resamples=0)
            method, _, rate = row["method"].partition("@lr=")
            line = {
                "row": k,
                "of": key,
                "method": method,
                "rate": _rate_of(rate).plain(),
                "task": row["task"],
                "shots": row["shots"],
                "score": outcome.scores[task.card.metric],
                "cross_entropy": losses[k] if math.isfinite(losses[k]) else None,
            }
            if run_context.is_main_process:
                with file.open("a") as stream:
                    stream.write(json.dumps(line) + "\n")
            if k % 50 == 49:
                run_context.print_rank0(f"learning rates: {k + 1} of {len(rows)} rows scored")
        out.append(line)
    return out


def _rate_of(label: str) -> Rate:
    """Of a sweep's row: ``0.1``, or ``0.1,shared=0.3``."""
    own, _, shared = label.partition(",shared=")
    return Rate(float(own), float(shared) if shared else None)


def _read(file: Path, key: str) -> dict[str, dict[str, Any]]:
    """Row number -> its whole line, of this checkpoint."""
    out = {}
    for text in file.read_text().splitlines() if file.exists() else []:
        try:
            line = json.loads(text)
            if line["of"] == key:
                out[str(line["row"])] = line
        except (ValueError, KeyError, TypeError):
            continue  # torn by a kill
    return out
