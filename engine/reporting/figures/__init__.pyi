from .prompt_figures import prompt_geometry as prompt_geometry
from .score_figures import (
    average_chart as average_chart,
    by_run as by_run,
    difference_chart as difference_chart,
    differences as differences,
    few_shot as few_shot,
    keys_of as keys_of,
    score_range as score_range,
    transfer as transfer,
)
from .training_figures import cost as cost, cost_chart as cost_chart, sweeps as sweeps, training as training

__all__ = [
    "average_chart",
    "by_run",
    "cost",
    "cost_chart",
    "difference_chart",
    "differences",
    "few_shot",
    "keys_of",
    "prompt_geometry",
    "score_range",
    "sweeps",
    "training",
    "transfer",
]
