from .merge import merge_runs as merge_runs
from .prompt_sums import METHOD as METHOD

__all__ = [
    "METHOD",
    "merge_runs",
]
