"""The sweep of learning rates before training for good."""

from dataclasses import dataclass
from functools import partial

from engine.config import keys
from engine.config.sections.adapt import shots_key

key = partial(keys.key, modes=("adapt",), in_step=False)
rates = partial(key, [], distinct=True, above=0)


@dataclass
class LrSweepConfig:
    """Learning rates that are compared on validation data before the training itself: of the methods of an adaptation,
    and of the teachers of a distillation. All of them train in one pass. The rate with the best mean score of the tasks
    is taken; of equal scores, the one with the lower cross-entropy.
    """

    metaprompt: list[float] = rates(
        "Peak learning rates of the task factors for the method metaprompt. Empty: adapt.lr_task is used."
    )
    multitask_prompt: list[float] = rates(
        "Peak learning rates of the task factors for the method multitask_prompt. Empty: adapt.lr_task is used."
    )
    relative_lr_shared: list[float] = rates(
        "Peak learning rates of P* with adapt.train: all; each is tried with every rate of the factors. Empty: the "
        "ratio of adapt.relative_lr_shared to adapt.lr_task is kept."
    )
    relative_lr_prompt: list[float] = rates(
        "Peak learning rates of prompt tuning. Empty: adapt.relative_lr_prompt is used."
    )
    relative_lr_teach: list[float] = rates(
        "Peak learning rates of the teachers of a distillation. Empty: teach.relative_lr is used.", modes=("distill",)
    )
    lora: list[float] = rates("Peak learning rates of LoRA. Empty: adapt.lr_lora is used.")
    shots: list[str] = shots_key(
        [],
        "Training set sizes that a rate is chosen for; other sizes take the rate of the nearest one. Empty: all of "
        "adapt.shots.",
        in_step=False,
    )
    seed: int = key(
        100,
        "Seed of the sweep's few-shot sets, data order and initial values; must not be in adapt.seeds.",
        modes=keys.TRAINING,
    )

    def any(self) -> bool:
        """Whether an adaptation has anything to choose from."""
        return bool(
            self.metaprompt or self.multitask_prompt or self.relative_lr_shared or self.relative_lr_prompt or self.lora
        )

    def problems(self) -> list[str]:
        """What is impossible between the keys of this section."""
        if "0" in self.shots:
            return ["lr_sweep.shots: 0 trains nothing, so no rate is better than another"]
        return []
