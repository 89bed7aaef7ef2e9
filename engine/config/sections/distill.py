"""Distillation: one teacher prompt per source task, then one metaprompt for all of them."""

from dataclasses import dataclass
from functools import partial
from typing import Literal

from engine.config import keys

key = partial(keys.key, modes=("distill",))


@dataclass
class TeachConfig:
    """The teachers: one prompt for each source task."""

    steps: int = key(300, "Training steps of each teacher.", above=0)
    batch_size: int = key(8, "Examples of each task in a step.", above=0)
    relative_lr: float = key(
        0.3, "Peak learning rate, in multiples of the RMS of the backbone's input embeddings.", at_least=0
    )
    warmup_steps: int = key(10, "Steps of linear warm-up, in the steps of each teacher.", at_least=0)
    schedule: Literal["constant", "linear", "cosine"] = key("linear", "Decay of the learning rate after the warm-up.")
    max_grad_norm: float = key(1.0, "Largest gradient norm of a teacher; 0: no limit.", at_least=0)
    eval_interval: int = key(
        50,
        "Steps between validations; each teacher keeps its best step. 0: no validation, the last step is kept.",
        at_least=0,
        in_step=False,
    )
    patience: int = key(0, "Stop a teacher after this many validations without an improvement; 0: never.", at_least=0)
    adapters: str = key(
        "",
        "Folder of PEFT prompt-tuning adapters, one for each source task, with the task's name. They are used as the "
        "teachers; none are trained.",
        on_resume="free",
        in_step=False,
    )
    run: str = key(
        "",
        "Run directory of a distillation whose teachers are reused, so that none are trained. It may have more source "
        "tasks.",
        on_resume="free",
        in_step=False,
    )

    def problems(self) -> list[str]:
        """What is impossible between the keys of this section."""
        if self.run and self.adapters:
            return ["teach.run: cannot be combined with teach.adapters, since both name the teachers; remove one"]
        return []


@dataclass
class DistillConfig:
    """The metaprompt and the factors of each source task."""

    sources: list[str] = key([], "Names of the source tasks, as in their cards.", distinct=True)
    without: list[str] = key([], "Source tasks to leave out, to measure how much each helps the others.")
    steps: int = key(600, "Training steps of the distillation, for all tasks together.", above=0)
    batch_size: int = key(32, "Examples in a step, of all tasks together.", above=0)
    sampler: Literal["uniform", "proportional", "capped"] = key(
        "uniform",
        "How often tasks are drawn: equally often, in proportion to their number of examples, or to min(examples, "
        "cap).",
    )
    cap: int = key(10000, "With sampler: capped, the largest number of examples that is counted for a task.", above=0)
    task_subsets: bool = key(
        True, "In each step, draw a number from 2 to the number of tasks, then that many tasks (as MPT does)."
    )
    relative_lr_shared: float = key(
        0.3,
        "Peak learning rate of the metaprompt, in multiples of the RMS of the backbone's input embeddings.",
        at_least=0,
    )
    lr_task: float = key(0.1, "Peak learning rate of the task factors.", at_least=0)
    warmup_steps: int = key(
        10, "Steps of linear warm-up; the factors of a task count only the steps that train them.", at_least=0
    )
    schedule: Literal["constant", "linear", "cosine"] = key("linear", "Decay of the learning rate after the warm-up.")
    max_grad_norm: float = key(
        1.0, "Largest gradient norm, of the metaprompt and of each task's factors; 0: no limit.", at_least=0
    )
    lambda_kl: float = key(0.9, "Weight of the loss T^2 KL(teacher || student).", at_least=0)
    lambda_hidden: float = key(
        0.9, "Weight of the mean squared error between the last hidden states of student and teacher.", at_least=0
    )
    temperature: float = key(1.0, "Temperature of the KL divergence (T).", above=0)
    teacher_cache: str = key(
        "auto",
        "Keep the outputs of the teachers for each answer token on disk, next to data.cache: auto (where samples are "
        "read repeatedly and there is room), off, or the largest size in GB.",
        on_resume="free",
    )

    @property
    def tasks(self) -> list[str]:
        """The source tasks that are left."""
        return [task for task in self.sources if task not in self.without]

    @property
    def limits_teacher_cache(self) -> bool:
        """Whether ``teacher_cache`` is a number of GB, right or not."""
        return self.teacher_cache not in ("auto", "off")

    def problems(self) -> list[str]:
        """What is impossible between the keys of this section."""
        problems = []
        for name in self.without:
            if name not in self.sources:
                problems.append(f"distill.without: {name!r} is not in distill.sources")
        if self.sources and not self.tasks:
            problems.append("distill.without: leaves no source task")
        if self.limits_teacher_cache and not _is_size(self.teacher_cache):
            problems.append(f"distill.teacher_cache: must be auto, off or a number of GB; got {self.teacher_cache!r}")
        return problems


def _is_size(text: str) -> bool:
    return text.replace(".", "", 1).isdecimal() and float(text) > 0
