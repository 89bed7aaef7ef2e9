from .evaluate import Evaluation as Evaluation, evaluate as evaluate, round_trip as round_trip, score as score

__all__ = [
    "Evaluation",
    "evaluate",
    "round_trip",
    "score",
]
