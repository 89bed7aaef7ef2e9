from .adapt import (
    DECOMPOSED as DECOMPOSED,
    Rates as Rates,
    Source as Source,
    adapt_rows as adapt_rows,
    adapt_stage as adapt_stage,
    factor_generator as factor_generator,
    source_of as source_of,
    train_indices as train_indices,
    trained_methods as trained_methods,
)
from .context import RunContext as RunContext
from .forward_backward import ForwardBackward as ForwardBackward, LossWeights as LossWeights
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
    placeholder_item as placeholder_item,
    plan_blocks as plan_blocks,
    sample_visits as sample_visits,
)
from .trainer import Trainer as Trainer
from .validation_loss import validation_losses as validation_losses

__all__ = [
    "DECOMPOSED",
    "WORTH",
    "Adapter",
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
    "adapt_stage",
    "assign_blocks",
    "cache_teachers",
    "check_adapters",
    "cut_files",
    "distill_stage",
    "factor_generator",
    "placeholder_item",
    "plan_blocks",
    "sample_visits",
    "source_of",
    "teach_stage",
    "teach_sweep",
    "train_indices",
    "trained_methods",
    "validation_losses",
]
