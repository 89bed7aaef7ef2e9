from .adapt import AdaptConfig as AdaptConfig
from .data import DataConfig as DataConfig, PromptConfig as PromptConfig
from .distill import DistillConfig as DistillConfig, TeachConfig as TeachConfig
from .evaluate import EvaluateConfig as EvaluateConfig
from .lr_sweep import LrSweepConfig as LrSweepConfig
from .records import CheckpointConfig as CheckpointConfig, LogConfig as LogConfig

__all__ = [
    "AdaptConfig",
    "CheckpointConfig",
    "DataConfig",
    "DistillConfig",
    "EvaluateConfig",
    "LogConfig",
    "LrSweepConfig",
    "PromptConfig",
    "TeachConfig",
]
