"""Each row's best step: validation decides which it is, and a copy of the row is kept beside the one that trains on."""

import math

import torch

from engine.telemetry import MetricsWriter
from engine.training.trainer_state import TrainerState

SHOWN = 6  # rows whose validation losses a log line names


def validate_rows(trainer: TrainerState, log: MetricsWriter, last: bool) -> None:
    """Validate the rows that are due, keep those that are better than before, stop those without patience left. A
    collective.

    Args:
        last: no step follows.
    """
    stage = trainer.stage
    losses = trainer.validation_losses([k for k in range(len(stage.rows)) if _is_due(trainer, k, last)])
    for k, loss in losses.items():
        if loss < trainer.best_loss[k]:
            trainer.best_loss[k], trainer.best_step[k], trainer.waited[k] = loss, trainer.row_steps[k], 0
            _keep_row(trainer, k)
        else:
            trainer.waited[k] += 1
            if stage.patience and trainer.waited[k] >= stage.patience:
                trainer.stop_row(k)
    if losses:
        shown = ", ".join(f"{stage.rows[k].name} {loss:.3f}" for k, loss in list(losses.items())[:SHOWN])
        if len(losses) > SHOWN:
            shown += f" and {len(losses) - SHOWN} more"
        log.print_rank0(f"{stage.name} {trainer.step}: validation loss {shown}")


def _is_due(trainer: TrainerState, k: int, last: bool) -> bool:
    """Whether row ``k`` is validated now: it has trained since it was best, and has not stopped before."""
    row, steps = trainer.stage.rows[k], trainer.row_steps[k]
    if row.validation is None or not row.train_indices or trainer.best_step[k] >= steps:
        return False
    return not trainer.stopped[k] or last or steps == row.steps


@torch.no_grad()
def keep_last(trainer: TrainerState) -> None:
    """Rows without a validation keep their last step; so does the shared metaprompt."""
    for k in range(len(trainer.stage.rows)):
        if trainer.best_loss[k] == math.inf:
            _keep_row(trainer, k)
            trainer.best_step[k] = trainer.row_steps[k]
    for part, span in trainer.stage.bank.spans().items():
        for name, parameter in trainer.stage.bank.parts[part].named_parameters():
            if len(parameter) != len(span):
                trainer.best[f"parts.{part}.{name}"].copy_(parameter)


@torch.no_grad()
def _keep_row(trainer: TrainerState, k: int) -> None:
    """Copy row ``k`` as its best."""
    trainer.any_best = True
    for part, span in trainer.stage.bank.spans().items():
        if k not in span:
            continue
        for name, parameter in trainer.stage.bank.parts[part].named_parameters():
            if len(parameter) == len(span):
                trainer.best[f"parts.{part}.{name}"][k - span.start] = parameter[k - span.start]
