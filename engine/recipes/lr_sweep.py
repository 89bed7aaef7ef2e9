"""Learning rates chosen on validation data: every rate of every method is a row of one bank, trained in one pass.

The score of a rate is the mean over the tasks of their official metrics, for each method and number of shots. Rates of
equal score are told apart by their cross-entropy, which still differs where a metric is at its ceiling or at zero. Left
in run_dir/lr_sweep.
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
    BackboneHolder,
    Rates,
    Source,
    Stage,
    adapt_rows,
    adapt_stage,
    complete_run_dir,
    open_run_dir,
    run_stage,
    teach_sweep,
    trained_methods,
    validation_losses,
)

EQUAL = 1e-9  # scores this close are one score


def chosen_rates(holder: BackboneHolder, data: dict[str, TaskData], sources: Mapping[str, Source]) -> Rates:
    """Of an adaptation: train and score what is not yet, in run_dir/lr_sweep. A collective.

    Raises:
        UserError: the sweep there is of another configuration.
    """
    c = holder.context.config
    if not adapt_rows(c, data, tuning=True):
        return {}
    table = _sweep(holder, stage=adapt_stage(holder, data, sources, tuning=True), data=data, tasks=len(c.adapt.targets))
    rates = {}
    for method in trained_methods(c.adapt.methods):
        for shots in c.adapt.shots:
            if method in table and shots != "0":
                rates[method, shots] = _nearest(table[method], shots)
    return rates


def chosen_teach_rate(holder: BackboneHolder, data: dict[str, TaskData]) -> float | None:
    """Of a distillation's teachers, in multiples of the embeddings' RMS; None where none are to be tried. A collective.

    Raises:
        UserError: the sweep there is of another configuration.
    """
    c = holder.context.config
    if not c.lr_sweep.relative_lr_teach:
        return None
    table = _sweep(holder, stage=teach_sweep(holder, data), data=data, tasks=len(c.distill.tasks))
    return _nearest(table["teacher"], "full").own


def _sweep(
    holder: BackboneHolder, stage: Stage, data: dict[str, TaskData], tasks: int
) -> dict[str, dict[str, dict[str, Any]]]:
    """Train a sweep's rows unless they are there, score them, say and keep the table."""
    c, folder = holder.context.config, holder.context.run_dir / "lr_sweep"
    done = None
    if (folder / "COMPLETED").exists() and not c.overwrite:
        done = checkpoints.load(folder)
    if done is not None:
        for line in check_hashes(done.state["hashes"], now=stage.hashes, run_dir=folder, accept=c.accept_changes):
            holder.context.print_rank0(f"WARNING {folder}: kept, although the configuration changed: {line}")
        holder.context.print_rank0(f"learning rates: reused from {folder}")
    else:
        run_stage(holder, stage, open_run_dir(holder.context, folder, stage.hashes, holder.zero))
        complete_run_dir(holder.context, folder)
    with telemetry.exit_on_signal():
        scored = _scores(holder, folder, data)
    table = summary(scored, tasks)
    for line in told(table):
        holder.context.print_rank0(line)
    if holder.context.is_main_process:
        write_atomic(holder.context.run_dir / TUNING, json.dumps(table, indent=1))
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
        scores = [_mean_score(rows) for rows in by_rate.values()]
        losses = [_mean_loss(rows) for rows in by_rate.values()]
        equal = [n for n, score in enumerate(scores) if score >= max(scores) - EQUAL]
        best = min(equal, key=lambda n: _or_infinite(losses[n]))
        rates = [json.loads(rate) for rate in by_rate]
        out.setdefault(method, {})[shots] = {"rates": rates, "scores": scores, "cross_entropies": losses, "best": best}
    return out


def _or_infinite(loss: float | None) -> float:
    if loss is None:
        return math.inf
    return loss


def _mean_score(rows: Sequence[Mapping[str, Any]]) -> float:
    return statistics.fmean(row["score"] for row in rows)


def _mean_loss(rows: Sequence[Mapping[str, Any]]) -> float | None:
    """None where a row's cross-entropy is not finite: JSON has no word for it."""
    losses = [row["cross_entropy"] for row in rows]
    if None in losses:
        return None
    return statistics.fmean(losses)


def told(table: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> list[str]:
    """Log lines of a sweep's table, with a warning for each cell in which the scores choose nothing."""
    lines = []
    for method, by_shots in table.items():
        for shots, tried in by_shots.items():
            lines += _cell_lines(f"learning rates of {method} at {shots}", tried)
    return lines


def _cell_lines(what: str, tried: Mapping[str, Any]) -> list[str]:
    """Log lines of one cell: ``what`` it is of, and the rates that were tried for it."""
    pairs = []
    for n, (rate, score, loss) in enumerate(
        zip(tried["rates"], tried["scores"], tried["cross_entropies"], strict=True)
    ):
        shown = f"{Rate.of(rate)} {score:.3f} ({_shown(loss)})"
        if n == tried["best"]:
            shown += " *"
        pairs.append(shown)
    lines = [f"{what}, mean validation score (cross-entropy) of the tasks: {', '.join(pairs)}"]
    if len(pairs) > 1 and max(tried["scores"]) - min(tried["scores"]) <= EQUAL:
        chosen = Rate.of(tried["rates"][tried["best"]])
        lines.append(
            f"WARNING {what}: all {len(pairs)} have the score {tried['scores'][0]:.3f}; "
            f"{chosen} is chosen by its lower cross-entropy. Use more steps or more validation examples to separate "
            "them"
        )
    return lines


def _shown(loss: float | None) -> str:
    if loss is None:
        return "not finite"
    return f"{loss:.3f}"


def _nearest(by_shots: Mapping[str, Mapping[str, Any]], shots: str) -> Rate:
    """The best rate of the number of shots that is nearest by ratio."""
    tried = by_shots.get(shots)
    if tried is None:
        nearest = min(by_shots, key=lambda other: abs(_log_size(other) - _log_size(shots)))
        tried = by_shots[nearest]
    return Rate.of(tried["rates"][tried["best"]])


def _log_size(shots: str) -> float:
    """The logarithm of a number of shots; of all examples, a number that is far from every other."""
    if shots == "full":
        return 1e9
    return math.log(int(shots))


def _scores(holder: BackboneHolder, folder: Path, data: dict[str, TaskData]) -> list[dict[str, Any]]:
    """Every row's metric on its task's validation split; those that stand in scores.jsonl are not asked again."""
    bank, found = load_bank(folder, "sweep")
    bank = bank.to(holder.backbone().device)
    file, key = folder / "scores.jsonl", found.identity
    known = gather_objects(_read(file, key))[0]  # all ranks do as rank 0 finds
    if holder.context.is_main_process:
        write_atomic(file, "".join(json.dumps(line) + "\n" for line in known.values()))
    predictor, out = Predictor(holder.on("validation"), bank), []
    rows = found.state["rows"]
    unknown = {}
    for k, row in enumerate(rows):
        if str(k) not in known:
            unknown[k] = data[row["task"]].splits["validation"]
    losses = validation_losses(holder.forward_backward(), bank, unknown)
    for k, row in enumerate(rows):
        line = known.get(str(k))
        if line is None:
            score = _validation_score(predictor, data[row["task"]], k)
            line = {"row": k, "of": key, **_scored_row(row, score, losses[k])}
            if holder.context.is_main_process:
                with file.open("a") as stream:
                    stream.write(json.dumps(line) + "\n")
            if k % 50 == 49:
                holder.context.print_rank0(f"learning rates: {k + 1} of {len(rows)} rows scored")
        out.append(line)
    return out


def _validation_score(predictor: Predictor, task: TaskData, row: int) -> float:
    """The task's official metric of a bank row's answers on the validation split."""
    answers = predictor.answers(task, row)
    outcome = clinical_tasks.evaluate(task.card, task.splits["validation"].examples(), answers, resamples=0)
    return outcome.scores[task.card.metric]


def _scored_row(row: Mapping[str, Any], score: float, loss: float) -> dict[str, Any]:
    """What scores.jsonl says of a row. A cross-entropy that is not finite is null."""
    method, _, rate = row["method"].partition("@lr=")
    return {
        "method": method,
        "rate": _rate_of(rate).plain(),
        "task": row["task"],
        "shots": row["shots"],
        "score": score,
        "cross_entropy": loss if math.isfinite(loss) else None,
    }


def _rate_of(label: str) -> Rate:
    """Of a sweep's row: ``0.1``, or ``0.1,shared=0.3``."""
    own, _, shared = label.partition(",shared=")
    if not shared:
        return Rate(float(own))
    return Rate(float(own), float(shared))


def _read(file: Path, key: str) -> dict[str, dict[str, Any]]:
    """Row number -> its whole line, of this checkpoint."""
    if not file.exists():
        return {}
    out = {}
    for text in file.read_text().splitlines():
        try:
            line = json.loads(text)
            if line["of"] == key:
                out[str(line["row"])] = line
        except (ValueError, KeyError, TypeError):
            continue  # torn by a kill
    return out
