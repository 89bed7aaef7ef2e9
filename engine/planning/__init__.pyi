from .calibration import calibrate as calibrate, write_kind as write_kind
from .cost_model import Model as Model, attention_of as attention_of, step_seconds as step_seconds
from .flags import (
    Asked as Asked,
    assumed_of as assumed_of,
    check_png as check_png,
    device_of as device_of,
    machine_of as machine_of,
    read_sweep as read_sweep,
)
from .plan import plan as plan
from .step_workload import micro_batch_of as micro_batch_of
from .zero3_simulator import Coordinator as Coordinator, rules_of as rules_of

__all__ = [
    "Asked",
    "Coordinator",
    "Model",
    "assumed_of",
    "attention_of",
    "calibrate",
    "check_png",
    "device_of",
    "machine_of",
    "micro_batch_of",
    "plan",
    "read_sweep",
    "rules_of",
    "step_seconds",
    "write_kind",
]
