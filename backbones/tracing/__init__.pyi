from .gathers import (
    ISSUE as ISSUE,
    WAIT as WAIT,
    GatherCounter as GatherCounter,
    Gathered as Gathered,
    timed_gathers as timed_gathers,
)
from .module_trace import Trace as Trace, Visit as Visit, trace as trace, twin_card as twin_card
from .sizes import ModelFootprint as ModelFootprint, measure_footprint as measure_footprint

__all__ = [
    "ISSUE",
    "WAIT",
    "GatherCounter",
    "Gathered",
    "ModelFootprint",
    "Trace",
    "Visit",
    "measure_footprint",
    "timed_gathers",
    "trace",
    "twin_card",
]
