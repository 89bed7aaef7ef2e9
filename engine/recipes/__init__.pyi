from .commands import (
    adapt as adapt,
    distill as distill,
    evaluate as evaluate,
    export as export,
    merge as merge,
    plan as plan,
    predict as predict,
    report as report,
    tasks_list as tasks_list,
)
from .study import run_study as run_study

__all__ = [
    "adapt",
    "distill",
    "evaluate",
    "export",
    "merge",
    "plan",
    "predict",
    "report",
    "run_study",
    "tasks_list",
]
