from .adapt import adapt as adapt
from .distill import distill as distill
from .finished_runs import evaluate as evaluate, export as export, merge as merge, predict as predict, report as report
from .plan import plan as plan, plan_problems as plan_problems
from .study import run_study as run_study
from .tasks import tasks_list as tasks_list

__all__ = [
    "adapt",
    "distill",
    "evaluate",
    "export",
    "merge",
    "plan",
    "plan_problems",
    "predict",
    "report",
    "run_study",
    "tasks_list",
]
