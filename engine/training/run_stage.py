"""Run a stage by the trainer, as the configuration says."""

from engine.checkpoints import RunLock
from engine.distributed import PreemptionHandler
from engine.training.backbone_holder import BackboneHolder
from engine.training.context import RunContext
from engine.training.stage import Stage, TrainerConfig
from engine.training.trainer import Trainer


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
        Trainer(stage, holder.backbone(), trainer_config(context), requests, lock).run()
