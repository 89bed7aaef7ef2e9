from .merge import merge_runs as merge_runs
from .prompt_sums import METHOD as METHOD
from .sum_flags import sum_problems as sum_problems

__all__ = [
    "METHOD",
    "merge_runs",
    "sum_problems",
]
