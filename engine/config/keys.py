"""How a key of the run configuration is declared: default, meaning, bounds, who reads it, when it may change."""

import dataclasses
from typing import Any, Literal

from strict_yaml import about

# what reads a configuration; plan, benchmark and study read what the mode reads that they are about
READERS = ("distill", "adapt", "evaluate")
TRAINING = ("distill", "adapt")


def key(
    default: Any,
    meaning: str,
    *,
    modes: tuple[str, ...] = TRAINING,
    on_resume: Literal["fixed", "free"] = "fixed",
    on_merge: Literal["first", "union"] = "first",
    in_step: bool = True,
    distinct: bool = False,
    **limits: Any,
) -> Any:
    """A dataclass field.

    Args:
        modes: those of READERS that read it. ``evaluate`` may change, on its command line, what it reads.
        on_resume: ``free`` where it says how or where a run happens, not what it computes: it may change between a
            checkpoint and its resumption.
        on_merge: of merged runs the first one's value, or the union of all (lists).
        in_step: whether a training step's work depends on it, so that two benchmarks must share it.
        distinct: no item of the list may stand twice.
        limits: see ``strict_yaml.about``.
    """
    metadata = about(
        meaning,
        modes=modes,
        on_resume=on_resume,
        on_merge=on_merge,
        in_step=in_step,
        distinct=distinct,
        **limits,
    )
    if isinstance(default, list):
        return dataclasses.field(default_factory=default.copy, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)
