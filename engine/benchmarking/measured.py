"""What is measured of a case, as it is measured."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from backbones import Gathered
from engine.benchmarking.cases import Case
from engine.benchmarking.peft_beside import PeftBeside
from engine.data import TaskData
from engine.distributed import MemoryEstimate, ShardedBackbone
from engine.training import BackboneHolder, Trainer


class StepRecord(NamedTuple):
    """A step on one rank: seconds; seconds of each phase; samples and real tokens of all ranks; this rank's computed
    tokens, gathers and GPU peak; seconds of the probe before it.
    """

    seconds: float
    phases: dict[str, float]
    samples: int
    real_tokens: int
    computed_tokens: int
    gathered: Gathered
    peak_gpu: int | None
    probe: float


@dataclass
class Measured:
    """A case on its way: what is known of it before a backbone stands, what it runs on, what its steps took."""

    case: Case
    holder: BackboneHolder
    data: dict[str, TaskData]
    chosen: MemoryEstimate | None = None
    load_seconds: float = 0.0
    backbone: ShardedBackbone | None = None
    own_bytes: int = 0  # on the GPU, between steps
    trainer: Trainer | None = None
    records: list[StepRecord] = field(default_factory=list)
    peak_host: int | None = None
    peak: float | None = None  # operations a second that this rank's device can do
    teacher: str | None = None  # of a distillation: asked at each step, or cached
    beside: int = 0  # other cases that were in memory
    identity: dict[str, Any] = field(default_factory=dict)
    peft: PeftBeside | None = None

    @property
    def lives(self) -> tuple[Any, ...]:
        """Cases alike in this share a backbone."""
        assert self.chosen is not None
        config, chosen = self.case.config, self.chosen
        place = (chosen.sharding, chosen.recompute, chosen.offloaded)
        return repr(self.holder.context.card), config.deepspeed, config.fused, *place
