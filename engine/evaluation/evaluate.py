"""Scores of a run's rows on test (or validation) splits, by the tasks' official metrics, as results.json.

An example that was too long for the run counts as an empty answer.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import clinical_tasks
from backbones import parameter_count
from clinical_tasks import TaskCard
from engine.checkpoints import Checkpoint
from engine.core import UserError, next_step, write_atomic
from engine.data import TaskData, read_overlap_record, target_overlap_record
from engine.evaluation.aggregate import average, identities, made_with, summarise
from engine.evaluation.eval_targets import ScoredRow, rows_of_run, shown_examples
from engine.evaluation.prediction_store import InferenceStats, PredictionStore
from engine.evaluation.predictor import Predictor
from engine.evaluation.run_summary import cost_and_tuning, trainable_counts
from engine.evaluation.vllm import announce
from engine.telemetry import write_hparams
from engine.training import BackboneHolder
from prompt_modules import JoinedBank
from strict_yaml import counted


@dataclass(frozen=True)
class _Request:
    """What one call evaluates.

    suffix: of results.json and predictions/, empty for the test split. file: results.json. role: target, or source of
    a distillation. every_task: all that the run has. tasks: those that are asked for.
    """

    split: str
    suffix: str
    file: Path
    rows: list[ScoredRow]
    bank: JoinedBank
    checkpoint: Checkpoint
    role: str
    every_task: list[str]
    tasks: list[str]

    def average(self, tasks: Mapping[str, Any], role: str) -> dict[str, dict[str, float]]:
        """Over the run's tasks of a role; empty where not all are there: a mean over some of them would not compare
        with one over all.
        """
        return average(tasks, role) if set(self.every_task) <= tasks.keys() else {}


@dataclass
class _Scored:
    """rows: of results. unfilled: task -> method -> shots -> why there is no score.

    work: task -> what its answers took.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    unfilled: dict[str, dict[str, dict[str, str]]] = field(default_factory=dict)
    work: dict[str, InferenceStats] = field(default_factory=dict)


def evaluate_run(holder: BackboneHolder, only: Sequence[str]) -> dict[str, Any]:
    """Score every row of a run (and, of a distillation, its teachers); write results.json and predictions/ (or
    results_validation.json, ...).

    Raises:
        UserError: the run is not finished, or ``only`` names tasks it does not have.
    """
    request = _request(holder, only)
    data = _data(holder, request)
    announce(holder)
    scored = _Scored(work={name: InferenceStats() for name in request.tasks})
    for name in request.tasks:
        for row in request.rows:
            if row.labels["task"] == name:
                _score(holder, request, data=data[name], row=row, scored=scored)
        holder.context.print_rank0(f"{name}: {scored.work[name].line()}")
    results = _results(holder, request, _tasks(holder, request, data, scored))
    if holder.context.is_main_process:
        _write(holder, request, results)
    return results


def _request(holder: BackboneHolder, only: Sequence[str]) -> _Request:
    run_dir, split = holder.context.run_dir, holder.context.config.evaluate.split
    suffix = "" if split == "test" else f"_{split}"
    rows, bank, checkpoint = rows_of_run(holder)
    role = "target" if checkpoint.state["stage"] == "adapt" else "source"
    every_task = list(dict.fromkeys(row.labels["task"] for row in rows))
    unknown = [t for t in only if t not in every_task]
    if unknown:
        raise UserError([f"--tasks: {t!r} is not in {run_dir}; it has {', '.join(every_task)}" for t in unknown])
    tasks = [name for name in every_task if not only or name in only]
    file = run_dir / f"results{suffix}.json"
    return _Request(split, suffix, file, rows, bank, checkpoint, role, every_task, tasks)


def _data(holder: BackboneHolder, request: _Request) -> dict[str, TaskData]:
    """The split of every task, and its training examples where contexts show solved ones."""
    splits = [request.split]
    if any(row.labels["method"] == "in_context" for row in request.rows):
        splits.append("train")
    return holder.context.data(dict.fromkeys(request.tasks, splits))


# ---- one row


def _score(holder: BackboneHolder, request: _Request, data: TaskData, row: ScoredRow, scored: _Scored) -> None:
    """Predict and score one row of a task, into ``scored``."""
    card, split, settings = data.card, data.splits[request.split], holder.context.config.evaluate
    name, method, shots = row.labels["task"], row.labels["method"], row.labels["shots"]
    predictor = _predictor(holder, data, row)
    key = predictor.key(card, split, row)
    store = PredictionStore(
        holder.context.run_dir / f"predictions{request.suffix}", row.name, key, holder.context.env.rank
    )
    answers = predictor.answers(data, row.number, store)
    for line in _said_of_examples(predictor, row.labels, settings.max_context):
        holder.context.print_rank0(line)
    if predictor.nothing_fits:
        reason = f"no solved example fits evaluate.max_context={settings.max_context}"
        scored.unfilled.setdefault(name, {}).setdefault(method, {})[shots] = reason
        return
    outcome = clinical_tasks.evaluate(card, split.examples(), answers, resamples=settings.resamples)
    counts = {"n_dropped": split.n_dropped, "n_truncated": predictor.n_truncated}
    if predictor.solved and predictor.shown:
        counts |= predictor.shown.told()
    scored.rows.append({**row.labels, **vars(outcome), "best_step": row.best_step, **counts})
    scored.work[name].add(predictor.work)
    back = f" ({counted(predictor.work.read_back, 'answer')} read back)" if predictor.work.read_back else ""
    value = f"{outcome.scores[card.metric]:.3f}"
    holder.context.print_rank0(f"{name} {method} {shots} seed {row.labels['seed']}: {card.metric} {value}{back}")


def _predictor(holder: BackboneHolder, data: TaskData, row: ScoredRow) -> Predictor:
    solved: list[tuple[str, str]] = []
    if row.labels["method"] == "in_context":
        solved = shown_examples(data.splits["train"], row.labels, holder.context.config.seed)
    bank = None if row.bank is None else row.bank.to(holder.backbone().device)
    return Predictor(holder, bank, solved)


def _said_of_examples(predictor: Predictor, labels: Mapping[str, Any], most: int) -> list[str]:
    """A warning where contexts that should hold solved examples hold none."""
    if not predictor.solved or predictor.shown is None:
        return []
    row = f"{labels['task']} {labels['method']} {labels['shots']} seed {labels['seed']}"
    fix = f"evaluate.max_context={most} and the backbone's positions bound a context"
    if predictor.nothing_fits:
        return [f"WARNING {row}: no solved example fits any context, so there is no score; {fix}"]
    without = predictor.shown.used.count(0)
    if without:
        return [f"WARNING {row}: {without} of {len(predictor.shown.used)} contexts hold no solved example; {fix}"]
    return []


# ---- results.json


def _tasks(holder: BackboneHolder, request: _Request, data: Mapping[str, TaskData], scored: _Scored) -> dict[str, Any]:
    """``tasks`` of results.json: those of this call, and what earlier calls scored of the same checkpoint."""
    cards = {name: task.card for name, task in data.items()}
    n_test = {name: len(task.splits[request.split]) for name, task in data.items()}
    tasks: dict[str, Any] = summarise(scored.rows, cards, n_test, request.role)["tasks"]
    earlier = _earlier(request.file, request.checkpoint.identity)
    for name, task in tasks.items():
        card, work = cards[name], scored.work[name]
        if name in scored.unfilled:
            task["unfilled"] = scored.unfilled[name]
        task["rules"] = {metric: clinical_tasks.rule(card, metric) for metric in (card.metric, *card.extra_metrics)}
        task["answers"] = _how_answered(holder, card)
        task["answering"] = vars(work)
        if not work.answers:  # where nothing was asked, what was measured when it was
            task["answering"] = earlier.get(name, {}).get("answering", vars(work))
    return earlier | tasks


def _how_answered(holder: BackboneHolder, card: TaskCard) -> str:
    if card.answer == "likelihood":
        return f"options by likelihood ({holder.context.config.evaluate.likelihood})"
    return "generated by a server" if holder.context.config.evaluate.server else "generated"


def _earlier(path: Path, checkpoint: str) -> dict[str, Any]:
    """Tasks evaluated before, of the same checkpoint."""
    try:
        results = json.loads(path.read_text())
    except (OSError, json.JSONDecodeError):
        return {}
    if results.get("checkpoint") != checkpoint:
        return {}
    tasks: dict[str, Any] = results["tasks"]
    return tasks


def _results(holder: BackboneHolder, request: _Request, tasks: dict[str, Any]) -> dict[str, Any]:
    """The content of results.json."""
    run_dir, state = holder.context.run_dir, request.checkpoint.state
    results: dict[str, Any] = {"checkpoint": request.checkpoint.identity, "tasks": tasks}
    results["average"] = request.average(tasks, "target")
    results["backbone"] = holder.context.card.name
    results |= made_with() | {"hashes": identities(state["hashes"])}
    adapted = request.role == "target"
    overlap = target_overlap_record(run_dir, list(tasks)) if adapted else read_overlap_record(run_dir)
    if overlap is not None:
        results["overlap"] = overlap
    if state.get("changes"):
        results["changes"] = state["changes"]
    with_shared = adapted and holder.context.config.adapt.train == "all"
    results["trainable"] = trainable_counts(request.bank, with_shared, parameter_count(holder.backbone().model))
    results |= cost_and_tuning(run_dir, state["rows"], state["progress"])
    return results


def _write(holder: BackboneHolder, request: _Request, results: dict[str, Any]) -> None:
    write_atomic(request.file, json.dumps(results, indent=1))
    said = f"results in {request.file}"
    if not request.suffix:
        said += next_step(f"python train.py report --runs {holder.context.run_dir}")
        if holder.context.config.log.tensorboard:
            whole = request.average(results["tasks"], request.role)
            write_hparams(
                holder.context.run_dir, holder.context.config, average=whole, tuning=results.get("tuning", {})
            )
    holder.context.print_rank0(said)
