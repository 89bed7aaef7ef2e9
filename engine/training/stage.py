"""What a loop trains (its stage) and how it is run (its settings)."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.config import Rate
from engine.data import Split
from engine.training.forward_backward import CachedTeachers, LossWeights
from prompt_modules import JoinedBank, RowwiseAdamW


@dataclass
class Adapter:
    """One row of the bank: what it learns from and how it is validated."""

    task: str
    method: str
    shots: str
    seed: int
    train: Split | None
    train_indices: list[int]
    """Into ``train``; empty for a row that is never trained (zero-shot)."""
    stream_seed: int
    validation: Split | None = None
    """None: the row keeps its last step."""
    steps: int = 0
    """Of its own; afterwards it rests."""
    variant: str = ""
    """What tells it from the method's other rows of the same task, shots and seed."""
    rate: Rate = Rate(0.0)
    """Peak learning rates, where its groups have one for each row."""

    @property
    def label(self) -> str:
        """The method in results: ``metaprompt``, or ``metaprompt@task:NAME``."""
        if not self.variant:
            return self.method
        return f"{self.method}@{self.variant}"

    @property
    def name(self) -> str:
        """Unique in the bank."""
        return f"{self.task}/{self.label}/{self.shots}/{self.seed}"


@dataclass
class Stage:
    """What a loop trains. ``groups_of_row``: optimizer group name -> joined bank rows it covers, or None for the
    one shared row.
    """

    name: str
    run_dir: Path
    bank: JoinedBank
    rows: list[Adapter]
    optimizer: RowwiseAdamW
    groups_of_row: dict[str, range | None]
    sampler: Any
    total_steps: int
    weights: LossWeights = LossWeights()
    teachers: JoinedBank | None = None
    cached_teachers: CachedTeachers | None = None
    """What the teachers said, where it is on disk."""
    eval_interval: int = 0
    patience: int = 0
    hashes: dict[str, Any] = field(default_factory=dict)
    """Of configuration, data and backbone: a checkpoint is resumed only where they agree."""
    source_tasks: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Method -> what checkpoints note of the distillation that its rows start from (``source_terms``), for cards."""

    @property
    def loss_terms(self) -> list[str]:
        """Terms of the loss that this stage has besides cross-entropy, and that one; none where it is alone."""
        terms = ["ce"]
        if self.weights.kl:
            terms.append("kl")
        if self.weights.hidden:
            terms.append("hidden")
        return terms if len(terms) > 1 else []


@dataclass
class TrainerConfig:
    max_tokens_per_micro_batch: int
    packed: bool
    log_every: int
    tensorboard: bool
    checkpoint_every: int
    keep: int
    rank: int
    world: int
    overwrite: bool = False
    accept_changes: bool = False
    max_nonfinite_steps: int = 0
    """A row whose gradient is not finite in so many steps running ends the run; 0 never."""
