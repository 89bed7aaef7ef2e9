from .adaptation import adaptation_problems as adaptation_problems
from .configuration import (
    Corpora as Corpora,
    backbone_problems as backbone_problems,
    benchmark_problems as benchmark_problems,
    distillation_problems as distillation_problems,
    task_problems as task_problems,
)
from .finished import (
    config_of_run as config_of_run,
    evaluation_problems as evaluation_problems,
    export_problems as export_problems,
    merge_problems as merge_problems,
    prediction_problems as prediction_problems,
    report_problems as report_problems,
)
from .protocol import study_problems as study_problems
from .run_state import RunState as RunState, continuing as continuing, state_of as state_of, unfinished as unfinished

__all__ = [
    "Corpora",
    "RunState",
    "adaptation_problems",
    "backbone_problems",
    "benchmark_problems",
    "config_of_run",
    "continuing",
    "distillation_problems",
    "evaluation_problems",
    "export_problems",
    "merge_problems",
    "prediction_problems",
    "report_problems",
    "state_of",
    "study_problems",
    "task_problems",
    "unfinished",
]
