"""A run directory: made, claimed for one job, filled by the trainer, and marked as finished."""

import json
import shutil
from pathlib import Path
from typing import Any

from engine import checkpoints, distributed
from engine.checkpoints import RunLock
from engine.config import check_hashes, to_yaml
from engine.core import write_atomic
from engine.distributed import PreemptionHandler
from engine.training.backbone_holder import BackboneHolder
from engine.training.context import RunContext
from engine.training.stage import Stage, TrainerConfig
from engine.training.trainer import Trainer

# what an older run leaves that would outlive the new one's
FOLDERS = ("checkpoints", "tensorboard", "predictions", "predictions_validation")
FILES = ("latest", "COMPLETED", "metrics.jsonl", "results.json", "results_validation.json", "overlap.json")


def open_run_dir(
    context: RunContext, folder: Path, hashes: dict[str, Any], zero: dict[str, Any] | None
) -> RunLock | None:
    """Make the run directory, claim it for this job and write the resolved configuration. A collective; rank 0
    writes, and gets the claim.

    Args:
        hashes: what the run's checkpoints depend on.
        zero: what DeepSpeed was given, written beside the configuration; None: nothing.

    Raises:
        UserError: it holds a checkpoint of another configuration, data or backbone, and ``accept_changes`` is off;
            nothing is touched.
    """
    config = context.config
    found = None if config.overwrite else checkpoints.load(folder, lambda _: None)
    if found is not None:
        check_hashes(found.state["hashes"], now=hashes, run_dir=folder, accept=config.accept_changes)
    lock = None
    if context.is_main_process:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = RunLock(folder)
        if config.overwrite:
            for name in FOLDERS:
                shutil.rmtree(folder / name, ignore_errors=True)
            for name in FILES:
                (folder / name).unlink(missing_ok=True)
        (folder / "COMPLETED").unlink(missing_ok=True)  # a finished run that goes on under accepted changes
        write_atomic(folder / "config.yaml", to_yaml(config))
        if zero is not None:
            write_atomic(folder / "deepspeed.json", json.dumps(zero, indent=1) + "\n")
    distributed.barrier()
    return lock


def complete_run_dir(context: RunContext, folder: Path) -> None:
    """Mark a run directory as finished, once every rank is. A collective."""
    distributed.barrier()
    if context.is_main_process:
        (folder / "COMPLETED").touch()
    distributed.barrier()


def already_complete(context: RunContext, stage: str) -> bool:
    """Whether the run directory holds this very run, finished.

    Raises:
        UserError: it holds another one, finished.
    """
    config, run_dir = context.config, context.run_dir
    if config.overwrite or not (run_dir / "COMPLETED").exists():
        return False
    found = checkpoints.load(run_dir)
    if found is None:
        return False
    sections = ["data", "prompt", stage]
    if stage == "adapt":
        sections.append("lr_sweep")
    now, saved = context.hashes(sections, ""), found.state["hashes"]
    compared = ("config", "backbone", "layout")  # the data are not tokenised yet
    changes = check_hashes(
        {key: saved[key] for key in compared},
        now={key: now[key] for key in compared},
        run_dir=run_dir,
        accept=config.accept_changes,
    )
    if changes:
        return False
    context.print_rank0(f"{run_dir}: already COMPLETED; give --overwrite=true to run it again")
    return True


def trainer_config(context: RunContext) -> TrainerConfig:
    """How a run's stages are run."""
    config = context.config
    return TrainerConfig(
        max_tokens_per_micro_batch=config.max_tokens_per_micro_batch,
        packed=config.batching == "packed",
        log_every=config.log.interval,
        tensorboard=config.log.tensorboard,
        checkpoint_every=config.checkpoint.interval,
        keep=config.checkpoint.keep,
        rank=context.env.rank,
        world=context.env.world,
        overwrite=config.overwrite,
        accept_changes=config.accept_changes,
        max_nonfinite_steps=config.max_nonfinite_steps,
    )


def run_stage(holder: BackboneHolder, stage: Stage, lock: RunLock | None) -> None:
    """Train a stage to its end; stops and saves on request.

    Raises:
        Stopped: on request, with a checkpoint.
    """
    context = holder.context
    context.run_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    with PreemptionHandler(context.run_dir, context.config.preempt_signal, context.is_main_process) as requests:
        Trainer(
            stage, backbone=holder.backbone(), settings=trainer_config(context), preemption=requests, run_lock=lock
        ).run()
