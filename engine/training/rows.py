"""Rows and samplers of every stage, from the configuration alone: what trains them and what plans them share this.

A row's order of examples, its few-shot set and its start are drawn from seeds of labels. They are made here and nowhere
else, so that `plan` counts the very samples that training will read.
"""

from collections.abc import Iterator, Mapping, Sequence

import torch

from engine.config import TRAINED, Rate, RunConfig, own_rate, tried_rates
from engine.core import UserError
from engine.data import EveryRow, Split, TaskData, TaskMixture, few_shot_order, seed_of
from engine.training.stage import Adapter

Rates = Mapping[tuple[str, str], Rate]  # (method, shots) -> what a sweep chose


def teach_rows(c: RunConfig, data: Mapping[str, TaskData]) -> list[Adapter]:
    """A teacher for each source task."""
    validate, rows = bool(c.teach.eval_interval), []
    for task in c.distill.tasks:
        order = seed_of(c.seed, "order", task)
        rows.append(_source_row(task, "teacher", data[task], stream_seed=order, steps=c.teach.steps, validate=validate))
    return rows


def teach_sweep_rows(c: RunConfig, data: Mapping[str, TaskData]) -> list[Adapter]:
    """A teacher for each source task and rate of ``lr_sweep.relative_lr_teach``."""
    rows, seed = [], c.lr_sweep.seed
    for task in c.distill.tasks:
        order = seed_of(c.seed, "order", task, seed)
        for rate in c.lr_sweep.relative_lr_teach:
            row = _source_row(task, "teacher", data[task], stream_seed=order, steps=c.teach.steps, validate=False)
            row.seed, row.variant, row.rate = seed, f"lr={rate:g}", Rate(rate)
            rows.append(row)
    return rows


def distill_rows(c: RunConfig, data: Mapping[str, TaskData], method: str) -> list[Adapter]:
    """A task's own factors beside the metaprompt, for each source task.

    Args:
        method: ``metaprompt``, or ``multitask_prompt`` where there are no teachers.
    """
    rows = []
    for task in c.distill.tasks:
        order = seed_of(c.seed, "order", task)
        rows.append(_source_row(task, method, data[task], stream_seed=order, steps=0, validate=False))
    return rows


def _source_row(task: str, method: str, data: TaskData, *, stream_seed: int, steps: int, validate: bool) -> Adapter:
    train = data.splits["train"]
    return Adapter(
        task,
        method,
        shots="full",
        seed=0,
        train=train,
        train_indices=list(train.sample_indices),
        stream_seed=stream_seed,
        validation=data.splits.get("validation") if validate else None,
        steps=steps,
    )


def teach_sampler(c: RunConfig, rows: Sequence[Adapter]) -> EveryRow:
    """Of the teachers and their sweep: each active row gets equally many examples a step."""
    return EveryRow(len(rows), c.teach.batch_size)


def distill_sampler(c: RunConfig, rows: Sequence[Adapter]) -> TaskMixture:
    """Of a distillation: examples a step over tasks drawn by weight."""
    s = c.distill
    sizes = [len(row.train_indices) for row in rows]
    return TaskMixture(
        sizes, batch=s.batch_size, how=s.sampler, cap=s.cap, subsets=s.task_subsets, seed=seed_of(c.seed, "mixture")
    )


def adapt_sampler(c: RunConfig, rows: Sequence[Adapter]) -> EveryRow:
    """Of an adaptation and its sweep: each active row gets equally many examples a step."""
    return EveryRow(len(rows), c.adapt.batch_size)


def trained_methods(methods: Sequence[str]) -> list[str]:
    """Those that are rows of the bank."""
    return [m for m in methods if m in TRAINED]


def adapt_rows(
    c: RunConfig, data: dict[str, TaskData], rates: Rates | None = None, tuning: bool = False
) -> list[Adapter]:
    """The rows of an adaptation, method by method.

    Raises:
        UserError: more shots than a task has examples; nothing to train.
    """
    a, problems, rows = c.adapt, [], []
    labels: dict[str, list[str] | None] = {}
    for method in trained_methods(a.methods):
        for task in a.targets:
            train = data[task].splits["train"]
            for shots in _shots_tried(c, tuning):
                if shots != "full" and int(shots) > len(train.sample_indices):
                    problems.append(
                        f"adapt.shots: {shots}: task {task} has {len(train.sample_indices)} usable training examples"
                    )
                    continue
                validation = None
                if not tuning and _is_validated(c, shots):
                    validation = data[task].splits.get("validation")
                for seed in _seeds(c, shots, tuning):
                    indices = train_indices(train, labels, task=task, shots=shots, seed=seed, run_seed=c.seed)
                    for variant, rate in _variants(c, method, shots, rates, tuning):
                        row = Adapter(
                            task,
                            method,
                            shots,
                            seed,
                            train=train,
                            train_indices=indices,
                            stream_seed=seed_of(c.seed, "order", task, seed),
                            validation=validation,
                            steps=a.steps,
                            variant=variant,
                            rate=rate,
                        )
                        rows.append(row)
    if problems:
        raise UserError(sorted(set(problems)))
    if not rows and not tuning:
        raise UserError("adapt: no row to train; adapt.methods and adapt.shots leave nothing")
    return rows


def _shots_tried(c: RunConfig, tuning: bool) -> Sequence[str]:
    """Numbers of shots of an adaptation's rows, or of its sweep's, which has nothing to train at 0."""
    if not tuning:
        return c.adapt.shots
    return c.lr_sweep.shots or [shots for shots in c.adapt.shots if shots != "0"]


def _seeds(c: RunConfig, shots: str, tuning: bool) -> Sequence[int]:
    """Seeds of the rows at so many shots; zero-shot draws nothing."""
    if tuning:
        return [c.lr_sweep.seed]
    if shots == "0":
        return c.adapt.seeds[:1]
    return c.adapt.seeds


def _is_validated(c: RunConfig, shots: str) -> bool:
    """Whether an adaptation's rows at so many shots choose their best step by validation."""
    if not c.adapt.eval_interval or shots == "0":
        return False
    return shots == "full" or c.adapt.few_shot_validation


def _variants(c: RunConfig, method: str, shots: str, rates: Rates | None, tuning: bool) -> Iterator[tuple[str, Rate]]:
    """(variant, rates) of a method's rows at so many shots."""
    if tuning:
        for rate in tried_rates(c, method):
            label = f"lr={rate.own:g}"
            if rate.shared is not None:
                label += f",shared={rate.shared:g}"
            yield label, rate
        return
    chosen = (rates or {}).get((method, shots), Rate(own_rate(c, method)))
    yield "", chosen
    if method == "metaprompt":
        for task in c.adapt.transfer:
            yield f"task:{task}", chosen


def train_indices(
    train: Split, labels: dict[str, list[str] | None], task: str, shots: str, seed: int, run_seed: int
) -> list[int]:
    """Examples that a row trains on; a few-shot set is the same for every method.

    Args:
        labels: by task, kept from call to call: they are read once.
    """
    if shots == "full":
        return list(train.sample_indices)
    if task not in labels:
        labels[task] = train.labels()
    generator = torch.Generator().manual_seed(seed_of(run_seed, "shots", task, seed))
    order = few_shot_order(labels[task], torch.randperm(len(train.sample_indices), generator=generator).tolist())
    return [train.sample_indices[i] for i in order[: int(shots)]]
