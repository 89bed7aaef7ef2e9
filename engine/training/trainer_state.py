"""What a trainer is at a step, how that goes into a checkpoint, and back."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from engine import checkpoints
from engine.checkpoints import Checkpoint
from engine.config import check_hashes
from engine.core import UserError
from engine.distributed import ShardedBackbone
from engine.training.forward_backward import ForwardBackward
from engine.training.stage import Adapter, Stage, TrainerConfig
from engine.training.step_metrics import MetricsWindow
from engine.training.validation_loss import validation_losses
from strict_yaml import counted

PROGRESS = ("step", "cursors", "row_steps", "stopped", "best_loss", "best_step", "waited", "row_tokens")


class TrainerState:
    """Progress of a stage's rows, and the best of each.

    Args:
        stage: what is trained. settings: how it is run.
    """

    def __init__(self, stage: Stage, backbone: ShardedBackbone, settings: TrainerConfig):
        self.stage, self.backbone, self.settings = stage, backbone, settings
        rows = len(stage.rows)
        self.step = 0
        self.cursors, self.row_steps, self.best_step, self.waited = [0] * rows, [0] * rows, [0] * rows, [0] * rows
        self.row_tokens = [0] * rows  # real ones that each row was trained on
        self.stopped = [not row.train_indices for row in stage.rows]
        self.best_loss = [math.inf] * rows
        self.best = {name: parameter.detach().clone() for name, parameter in stage.bank.named_parameters()}
        self.any_best = False
        self.changes: list[str] = []
        self.window = MetricsWindow()
        self.forward_backward = ForwardBackward(
            backbone, settings.packed, settings.max_tokens_per_micro_batch, settings.rank, settings.world
        )

    def stop_row(self, k: int) -> None:
        """Row ``k`` rests from now on."""
        self.stopped[k] = True
        for name, span in self.stage.groups_of_row.items():
            if span is not None and k in span:
                self.stage.optimizer.groups[name].active_K[k - span.start] = False

    def validation_losses(self, rows: Sequence[int]) -> dict[int, float]:
        """Mean cross-entropy of an answer token on each row's validation split. A collective."""
        splits = {k: self.stage.rows[k].validation for k in rows}
        assert all(split is not None for split in splits.values())
        return validation_losses(self.forward_backward, self.stage.bank, splits)  # type: ignore[arg-type]


def checkpoint_of(trainer: TrainerState) -> Checkpoint:
    """The trainer as it is; tensors are its own, not copies."""
    stage = trainer.stage
    prompts: dict[str, Tensor] = {}
    frozen: dict[str, Tensor] = {}
    for name, parameter in stage.bank.named_parameters():
        if parameter.requires_grad:
            prompts[name] = parameter
        else:
            frozen[name] = parameter
    seldom = {}
    if trainer.any_best:  # else it is the start, which no one asks for
        seldom["best"] = {f"best.{name}": tensor for name, tensor in trainer.best.items()}
    if frozen:
        seldom["frozen"] = frozen
    progress = {name: getattr(trainer, name) for name in PROGRESS}
    progress["window"] = trainer.window.state()
    state = {
        "stage": stage.name,
        "rows": [_labels(row) for row in stage.rows],
        "progress": progress,
        "hashes": stage.hashes,
        "changes": trainer.changes,
    }
    if stage.source_tasks:
        state["source_tasks"] = stage.source_tasks
    return Checkpoint(prompts, stage.optimizer.state_dict(), state, seldom)


def resume(trainer: TrainerState) -> None:
    """Go on from the latest whole checkpoint of the run directory, if there is one.

    Raises:
        UserError: it is of another configuration, data or backbone and changes are not accepted, or of other shapes.
    """
    stage, settings = trainer.stage, trainer.settings
    is_main_process = settings.rank == 0
    found = checkpoints.load(stage.run_dir, print if is_main_process else _silent)
    if found is None:
        return
    accepted = check_hashes(
        found.state["hashes"], now=stage.hashes, run_dir=stage.run_dir, accept=settings.accept_changes
    )
    trainer.changes = list(found.state.get("changes", []))
    trainer.changes += [f"step {found.state['step']}: {line}" for line in accepted]
    _restore(trainer, found)
    if is_main_process:
        for line in accepted:
            print(f"WARNING {stage.run_dir}: continues, although the configuration changed: {line}", flush=True)
        print(f"{stage.name}: resumed at step {trainer.step} of {stage.total_steps}", flush=True)


def _silent(_: str) -> None:
    """Nothing is said by ranks other than 0."""


@torch.no_grad()
def _restore(trainer: TrainerState, found: Checkpoint) -> None:
    """Give a trainer the prompts, optimizer state and progress of a checkpoint.

    Raises:
        UserError: the checkpoint is of other tasks or shapes; nothing was changed.
    """
    parameters: dict[str, Tensor] = dict(trainer.stage.bank.named_parameters())
    _check_shapes(trainer, found, parameters)
    for name, tensor in found.prompts.items():
        if name.startswith("best."):
            trainer.best[name.removeprefix("best.")].copy_(tensor)
        else:
            parameters[name].copy_(tensor)
    device = trainer.backbone.device
    trainer.stage.optimizer.load_state_dict({name: tensor.to(device) for name, tensor in found.optimizer.items()})
    trainer.any_best = "best" in found.reused
    progress = found.state["progress"]
    for name in PROGRESS:
        if name in progress:  # earlier releases did not count all of them
            setattr(trainer, name, progress[name])
    trainer.window = MetricsWindow(progress["window"])


def _check_shapes(trainer: TrainerState, found: Checkpoint, parameters: dict[str, Tensor]) -> None:
    """Changes that were accepted may be of rates and data, not of what the numbers are."""
    stage = trainer.stage
    rows = [_labels(row) for row in stage.rows]
    problems = []
    if found.state["rows"] != rows:
        problems.append(f"it has {counted(len(found.state['rows']), 'row')} and this run {len(rows)}, or other ones")
    shapes = _shapes(parameters)
    saved = _shapes({name: tensor for name, tensor in found.prompts.items() if not name.startswith("best.")})
    for name in sorted(saved.keys() | shapes.keys()):
        there, here = saved.get(name), shapes.get(name)
        if there != here:
            problems.append(f"{name} is {there} there, {here} here")
    if problems:
        what = f"{stage.run_dir}: other tasks or shapes than in the checkpoint"
        raise UserError([f"{what}: {problem}; name another run_dir" for problem in problems])


def _shapes(tensors: dict[str, Tensor]) -> dict[str, list[int]]:
    return {name: list(tensor.shape) for name, tensor in tensors.items()}


def _labels(row: Adapter) -> dict[str, Any]:
    return {"task": row.task, "method": row.label, "shots": row.shots, "seed": row.seed}
