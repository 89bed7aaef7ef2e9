"""What a global step trains on, known before it begins: the sampler and the streams are pure functions of counters."""

from collections.abc import Sequence
from dataclasses import dataclass

from engine.data import Sample, Stream, plan_step, weight_answer_tokens
from engine.training.forward_backward import ForwardBackward
from engine.training.stage import Stage


@dataclass(frozen=True)
class StepPlan:
    """A step's samples and this rank's micro-batches.

    step, active, before: what it follows from. The step's number; of each row whether it is trained, and its cursor.
    after: cursors once the step is taken.
    """

    step: int
    active: list[bool]
    before: list[int]
    after: list[int]
    samples: list[Sample]
    groups: list[list[Sample]]

    def follows(self, step: int, active: Sequence[bool], cursors: Sequence[int]) -> bool:
        """Whether it is the plan of that step, from that state."""
        return (self.step, self.active, self.before) == (step, list(active), list(cursors))


def plan_of(
    stage: Stage,
    forward_backward: ForwardBackward,
    streams: Sequence[Stream | None],
    *,
    step: int,
    active: Sequence[bool],
    cursors: Sequence[int],
) -> StepPlan:
    """Plan global step ``step``. ``cursors`` stay as they are."""
    after = list(cursors)
    samples = []
    for row, index in plan_step(stage.sampler.counts(step, active), streams, after):
        samples.append(stage.rows[row].train.sample(index, row))  # type: ignore[union-attr]
    samples = weight_answer_tokens(samples)
    groups = forward_backward.micro_batches(samples, stage.bank)
    return StepPlan(step, list(active), list(cursors), after, samples, groups)
