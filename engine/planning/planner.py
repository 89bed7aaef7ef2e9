"""What a configuration takes on a machine: seconds of a step, tokens a second, node-hours of each stage, what
binds, and what another setting would give.
"""

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from backbones import Gathered
from backbones.tracing import Trace, trace
from engine import distributed
from engine.config import RunConfig
from engine.distributed import DeviceKind, Machine, MemoryEstimate, zero_config
from engine.planning.cost_model import NOTHING, Model, Seconds, attention_of, step_seconds
from engine.planning.sample_lengths import Assumed, data_for
from engine.planning.step_workload import Parts, StageWork, stages_of
from engine.planning.zero3_simulator import Coordinator, rules_of
from engine.telemetry import utilisation
from engine.training import RunContext

LARGEST = 1 << 24  # tokens of a micro-batch that are tried
EXAMPLES_KEY = {
    "teach": ("teach", "batch_size"),
    "distill": ("distill", "batch_size"),
    "adapt": ("adapt", "batch_size"),
}
WORTH_TELLING = 1.02


@dataclass(frozen=True)
class StageTime:
    """step: on average. forward: of the whole stage's passes without a backward pass. gathered: bytes that a step
    brings to a rank.
    """

    work: StageWork
    step: Seconds
    forward: Seconds
    gathered: Gathered
    tokens_per_s: float
    mfu: float | None
    node_hours: float

    @property
    def seconds(self) -> float:
        return self.step.total * self.work.steps + self.forward.total


@dataclass(frozen=True)
class Case:
    """A configuration on a machine, with the backbone where it goes."""

    config: RunConfig
    machine: Machine
    device: DeviceKind
    need: MemoryEstimate
    stages: tuple[StageTime, ...]

    @property
    def node_hours(self) -> float:
        return sum(s.node_hours for s in self.stages)

    @property
    def main(self) -> StageTime:
        """The longest."""
        return max(self.stages, key=lambda s: s.seconds)

    def examples_key(self, stage: StageTime) -> tuple[str, str]:
        """Section and key of the examples of a stage's step; a sweep's are those of the stage that it chooses for."""
        names = [one.work.name for one in self.stages]
        own = stage.work.name
        if own == "lr_sweep":
            own = "teach" if "teach" in names[self.stages.index(stage) :] else "adapt"
        return EXAMPLES_KEY[own]

    def idle_ranks(self, stage: StageTime) -> int:
        """Ranks that have no sample in a step: a sample is never divided."""
        return max(0, self.machine.world - math.ceil(stage.work.examples))


class Planner:
    """Cases of one backbone and its data.

    Args:
        mode: distill or adapt; empty: all stages that the configuration has. device: None where only memory and bytes
            are asked for.
    """

    def __init__(self, run_context: RunContext, mode: str, device: DeviceKind | None, assumed: Assumed):
        self.run_context, self.mode, self.device, self.sizes, self.assumed = (
            run_context,
            mode,
            device,
            run_context.sizes,
            assumed,
        )
        self._traces: dict[tuple[int, bool], Trace] = {}
        self._steady: dict[Any, Gathered] = {}
        self._decided: dict[str, Parts | None] = {}
        self._cases: dict[Any, Case] = {}

    @cached_property
    def _data(self) -> tuple[dict[str, Any], str]:
        return data_for(self.run_context, self.mode, self.assumed)

    @property
    def told(self) -> str:
        """Where the samples' lengths come from."""
        return self._data[1]

    def need(self, config: RunConfig, machine: Machine, asked: str = "") -> MemoryEstimate:
        return distributed.choose_sharding(
            self.sizes,
            asked=asked or distributed.requested_sharding(config),
            recompute=config.activation_checkpointing,
            work=distributed.micro_batch_shape(config, self.sizes),
            m=machine,
        )

    def trace(self, recompute: int, packed: bool) -> Trace:
        if (recompute, packed) not in self._traces:
            self._traces[recompute, packed] = trace(self.run_context.card, recompute, packed, self.sizes.rows_from_file)
        return self._traces[recompute, packed]

    def gathered(self, config: RunConfig, machine: Machine, need: MemoryEstimate, kind: str = "train") -> Gathered:
        """What a micro-batch brings to a rank, when one has followed another."""
        if need.sharding == "replicated":
            return Gathered()
        packed = config.batching == "packed"
        file = distributed.deepspeed_file_of(need.sharding)
        if config.deepspeed and need.sharding == distributed.requested_sharding(config):
            file = config.deepspeed
        key = (file, machine.nodes, machine.ranks_per_node, machine.device, need.recompute, packed, kind)
        if key not in self._steady:
            rules = rules_of(zero_config(file, self.run_context.card, self.sizes, machine.ranks_per_node), machine)
            self._steady[key] = Coordinator(
                self.sizes, trace=self.trace(need.recompute, packed), rules=rules, machine=machine
            ).steady(kind)
        return self._steady[key]

    def largest_budget(self, config: RunConfig, machine: Machine, asked: str = "") -> int:
        """Most tokens of a micro-batch that fit, recomputing as far as the configuration lets it; 0 where not even
        one does.
        """
        work, asked = distributed.micro_batch_shape(config, self.sizes), asked or distributed.requested_sharding(config)

        def fits(tokens: int) -> bool:
            larger = replace(work, tokens=tokens, answers=tokens)
            need = distributed.choose_sharding(
                self.sizes, asked, recompute=config.activation_checkpointing, work=larger, m=machine
            )
            return need.fits(machine)

        low, high = 0, 1
        while high <= LARGEST and fits(high):
            low, high = high, 2 * high
        while high - low > max(1, low >> 10):
            middle = (low + high) // 2
            if fits(middle):
                low = middle
            else:
                high = middle
        return low

    def model(self, config: RunConfig, machine: Machine, need: MemoryEstimate) -> Model:
        assert self.device is not None
        packed = config.batching == "packed"
        visits = self.trace(need.recompute, packed).visits
        gathered, entered = {}, {}
        for kind in ("train", "train_with_teacher", "forward"):
            gathered[kind] = self.gathered(config, machine, need, kind)
            entered[kind] = sum(visit.enters for visit in visits[kind])
        return Model(
            self.sizes,
            attention_of(self.run_context.model_config),
            need,
            machine,
            self.device,
            gathered,
            entered,
            self.run_context.card.dtype,
            config.fused == "auto",
        )

    def case(self, config: RunConfig, machine: Machine, asked: str = "") -> Case:
        """What a configuration takes on a machine, under the sharding ``asked`` or its own; computed once."""
        key = (repr(config), machine, repr(self.device), asked)
        if key not in self._cases:
            self._cases[key] = self._case(config, machine, asked)
        return self._cases[key]

    def _case(self, config: RunConfig, machine: Machine, asked: str) -> Case:
        need = self.need(config, machine, asked)
        model = self.model(config, machine, need)
        stages = stages_of(config, self.mode, data=self._data[0], world=machine.world, decided=self._decided)
        times = [self._time(config, model, work) for work in stages]
        return Case(config, machine, model.device, need, tuple(times))

    def _time(self, config: RunConfig, model: Model, work: StageWork) -> StageTime:
        m = model.machine
        step = step_seconds(model, work.kind, steps=work.sampled, numbers=self._numbers(config, work.name))
        forward = NOTHING
        for b in work.forward:
            forward = forward.plus(model.micro_batch("forward", b))
        brought = Gathered(*(round(v * work.rounds) for v in model.gathered[work.kind]))
        tokens_per_s = work.real_tokens / step.total
        mfu = utilisation(
            self.sizes, real_tokens_per_s=tokens_per_s, peak=model.device.flops[model.dtype], ranks=m.world
        )
        hours = (step.total * work.steps + forward.total) * m.nodes / 3600
        return StageTime(work, step, forward, brought, tokens_per_s, mfu, hours)

    def _numbers(self, config: RunConfig, stage: str) -> int:
        """Trained ones."""
        prompt, tasks, hidden = (
            config.prompt.num_virtual_tokens * self.sizes.hidden,
            len(config.distill.tasks),
            self.sizes.hidden,
        )
        if stage == "teach":
            return tasks * prompt
        if stage == "distill":
            return prompt + tasks * config.prompt.rank * (config.prompt.num_virtual_tokens + hidden)
        return distributed.bank_numbers(config, hidden, self.sizes.linear_sides)

    # ---- other settings

    def knobs(self, case: Case) -> list[dict[str, Any]]:
        """What other settings would make of the longest stage's real tokens a second, the best first: each
        computed, those that do not fit left out.
        """
        stage, out = case.main, []
        for key, value, config, machine, device, asked in self._others(case):
            kept, self.device = self.device, device
            try:
                other = self.case(config, machine, asked)
            finally:
                self.device = kept
            if not other.need.fits(machine):
                continue
            by_name = {one.work.name: one for one in other.stages}
            if stage.work.name in by_name:
                same = by_name[stage.work.name]
                out.append(
                    {
                        "key": key,
                        "value": value,
                        "tokens_per_s": same.tokens_per_s,
                        "times": same.tokens_per_s / stage.tokens_per_s,
                        "node_hours": other.node_hours,
                        "binding": same.step.binding,
                    }
                )
        return sorted(out, key=lambda k: -k["times"])

    def _others(self, case: Case) -> Iterator[tuple[str, Any, RunConfig, Machine, DeviceKind, str]]:
        c, m, d = case.config, case.machine, case.device
        asked = distributed.requested_sharding(c)
        for budget in (c.max_tokens_per_micro_batch * 2, c.max_tokens_per_micro_batch // 2):
            yield "max_tokens_per_micro_batch", budget, with_values(c, max_tokens_per_micro_batch=budget), m, d, asked
        for name in distributed.possible_shardings(m, "auto"):
            if name != case.need.sharding and not c.deepspeed:
                yield "sharding", name, with_values(c, sharding=name), m, d, name
        if case.need.recompute:
            yield "activation_checkpointing", "none", with_values(c, activation_checkpointing="none"), m, d, asked
        section, leaf = case.examples_key(case.main)
        changed = copy.deepcopy(c)
        number = 2 * getattr(getattr(c, section), leaf)
        setattr(getattr(changed, section), leaf, number)
        yield f"{section}.{leaf}", number, changed, m, d, asked
        yield "nodes", 2 * m.nodes, c, replace(m, nodes=2 * m.nodes), d, asked
        if m.nodes > 1:
            yield "--network_gbs", 2 * d.network / 1e9, c, m, replace(d, network=2 * d.network), asked
        if m.ranks_per_node > 1:
            yield "--nvlink_gbs", 2 * d.intra / 1e9, c, m, replace(d, intra=2 * d.intra), asked


def with_values(config: RunConfig, **values: Any) -> RunConfig:
    """A copy of a configuration with other values of keys that have no section."""
    return replace(copy.deepcopy(config), **values)
