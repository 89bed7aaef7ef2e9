from .aggregate import (
    OUR_METHOD as OUR_METHOD,
    average as average,
    by_seed as by_seed,
    cells_of as cells_of,
    interval_around as interval_around,
    made_with as made_with,
    paired_over_targets as paired_over_targets,
    student as student,
)
from .answer_files import answer_output_problems as answer_output_problems, names_folder as names_folder
from .evaluate import evaluate_run as evaluate_run
from .generation import Answer as Answer, Greedy as Greedy
from .multiple_choice import Choice as Choice, option_likelihoods as option_likelihoods
from .notes import Wanted as Wanted, predict_notes as predict_notes
from .predictor import Predictor as Predictor
from .run_summary import TUNING as TUNING

__all__ = [
    "OUR_METHOD",
    "TUNING",
    "Answer",
    "Choice",
    "Greedy",
    "Predictor",
    "Wanted",
    "answer_output_problems",
    "average",
    "by_seed",
    "cells_of",
    "evaluate_run",
    "interval_around",
    "made_with",
    "names_folder",
    "option_likelihoods",
    "paired_over_targets",
    "predict_notes",
    "student",
]
