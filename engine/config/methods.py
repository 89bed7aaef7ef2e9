"""The registry of methods: every way to answer target tasks, and what the rest of the program asks of it.

A new method is an entry here, a builder of its rows in ``engine/training/adapt.py`` where it is trained, and a test.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal


@dataclass(frozen=True)
class Method:
    """A value of ``adapt.methods``.

    Args:
        meaning: one sentence, for ``--help`` and reports.
        trained: its answers are those of rows of the bank; otherwise it is scored and trains nothing.
        source: configuration key of the distillation that its rows start from; empty where they start from nothing.
        rate: key below ``adapt`` of the learning rate of its own numbers.
        sweep: key below ``lr_sweep`` of the rates that are tried.
        missing: why it cannot be used yet; empty where it can.
    """

    meaning: str
    trained: bool = True
    source: str = ""
    rate: str = "lr_task"
    sweep: str = ""
    missing: str = ""


# in the order in which reports show them
METHODS: dict[str, Method] = {
    "metaprompt": Method(
        "the distilled prompt, adapted by a task's own factors", source="adapt.source_run", sweep="metaprompt"
    ),
    "prompt_tuning": Method(
        "a soft prompt of its own for each task, from the start of `prompt.init`",
        rate="relative_lr_prompt",
        sweep="relative_lr_prompt",
    ),
    "lora": Method("low-rank updates of the backbone's linear layers", rate="lr_lora", sweep="lora"),
    "multitask_prompt": Method(
        "as metaprompt, from a distillation without teachers", source="adapt.multitask_run", sweep="multitask_prompt"
    ),
    "instruction": Method("the card's written instruction, at shots 0", trained=False),
    "in_context": Method("the instruction and solved examples in front of each text", trained=False),
}

if TYPE_CHECKING:
    MethodName = str
else:
    MethodName = Literal[tuple(METHODS)]

USABLE = tuple(name for name, method in METHODS.items() if not method.missing)
TRAINED = tuple(name for name in USABLE if METHODS[name].trained)
UNTRAINED = tuple(name for name in USABLE if not METHODS[name].trained)
DECOMPOSED = tuple(name for name in TRAINED if METHODS[name].source)  # start from a distillation's factors
SOURCES = {name: METHODS[name].source for name in DECOMPOSED}
