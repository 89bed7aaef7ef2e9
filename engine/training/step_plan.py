"""What a global step trains on, known before it begins: the sampler and the streams are pure functions of counters."""

from collections.abc import Sequence
from dataclasses import dataclass

from engine.data import Item, Pick, Stream, plan_step, weigh
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
    picks: list[Pick]
    items: list[Item]
    groups: list[list[Item]]

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
    picks = plan_step(stage.sampler.counts(step, active), streams, after)
    rows = [pick.row for pick in picks]
    indices = [pick.index for pick in picks]
    samples = [stage.rows[pick.row].train.sample(pick.index) for pick in picks]  # type: ignore[union-attr]
    items = weigh(rows, samples, indices)
    groups = forward_backward.micro_batches(items, stage.bank)
    return StepPlan(step, list(active), list(cursors), after, picks, items, groups)
