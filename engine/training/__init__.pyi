from .adapt import (
    Source as Source,
    adapt_stage as adapt_stage,
    factor_generator as factor_generator,
    source_of as source_of,
)
from .backbone_holder import BackboneHolder as BackboneHolder
from .context import RunContext as RunContext
from .forward_backward import ForwardBackward as ForwardBackward, LossWeights as LossWeights
from .rows import (
    Rates as Rates,
    adapt_rows as adapt_rows,
    adapt_sampler as adapt_sampler,
    distill_rows as distill_rows,
    distill_sampler as distill_sampler,
    teach_rows as teach_rows,
    teach_sampler as teach_sampler,
    teach_sweep_rows as teach_sweep_rows,
    train_indices as train_indices,
    trained_methods as trained_methods,
)
from .run_directory import (
    already_complete as already_complete,
    complete_run_dir as complete_run_dir,
    open_run_dir as open_run_dir,
    run_stage as run_stage,
    trainer_config as trainer_config,
)
from .stage import Adapter as Adapter, Stage as Stage
from .teach_and_distill import distill_stage as distill_stage, teach_stage as teach_stage, teach_sweep as teach_sweep
from .teachers import (
    WORTH as WORTH,
    TaughtRow as TaughtRow,
    TeacherCache as TeacherCache,
    TeacherCacheReader as TeacherCacheReader,
    assign_blocks as assign_blocks,
    cache_teachers as cache_teachers,
    check_adapters as check_adapters,
    cut_files as cut_files,
    placeholder_sample as placeholder_sample,
    plan_blocks as plan_blocks,
    sample_visits as sample_visits,
)
from .trainer import Trainer as Trainer
from .validation_loss import validation_losses as validation_losses

__all__ = [
    "WORTH",
    "Adapter",
    "BackboneHolder",
    "ForwardBackward",
    "LossWeights",
    "Rates",
    "RunContext",
    "Source",
    "Stage",
    "TaughtRow",
    "TeacherCache",
    "TeacherCacheReader",
    "Trainer",
    "adapt_rows",
    "adapt_sampler",
    "adapt_stage",
    "already_complete",
    "assign_blocks",
    "cache_teachers",
    "check_adapters",
    "complete_run_dir",
    "cut_files",
    "distill_rows",
    "distill_sampler",
    "distill_stage",
    "factor_generator",
    "open_run_dir",
    "placeholder_sample",
    "plan_blocks",
    "run_stage",
    "sample_visits",
    "source_of",
    "teach_rows",
    "teach_sampler",
    "teach_stage",
    "teach_sweep",
    "teach_sweep_rows",
    "train_indices",
    "trained_methods",
    "trainer_config",
    "validation_losses",
]
