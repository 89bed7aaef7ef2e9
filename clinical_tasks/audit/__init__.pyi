from .check import TaskCheck as TaskCheck, check_tasks as check_tasks
from .overlap import Overlap as Overlap, find_overlaps as find_overlaps
from .table import format_checks as format_checks
from .token_counts import TokenLimits as TokenLimits

__all__ = [
    "Overlap",
    "TaskCheck",
    "TokenLimits",
    "check_tasks",
    "find_overlaps",
    "format_checks",
]
