"""Bytes that ZeRO-3 will gather, to the byte: DeepSpeed's coordinator played over the modules that a micro-batch
visits.

What is fetched again between a forward and its backward pass, what a prefetch skips and what stays whole is decided by
rules that look at the whole trace (deepspeed/runtime/zero/partitioned_param_coordinator.py, 0.19.8), so the rules are
followed here one by one, on names and sizes in place of tensors. A test holds the outcome against what real ranks
gather.
"""

import itertools
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from backbones import Gathered
from backbones.tracing import ModelFootprint, Trace, Visit
from engine.distributed import Machine

AWAY, COMING, HERE = range(3)  # of a parameter: partitioned, on its way, whole
NEVER = -(10**10)


@dataclass(frozen=True)
class ZeroRules:
    """What a DeepSpeed file decides, in elements: of a fetch ahead, of parameters whole at once, of the way to the next
    use up to which a parameter stays whole, of parameters that are never partitioned. group: ranks that hold secondary
    shards between them, or 1. uploads: shards wait in a GPU's host memory.
    """

    prefetch: int
    live: int
    reuse: int = 10**9
    persistence: int = 0
    group: int = 1
    uploads: bool = False


def rules_of(zero_config: dict[str, Any], machine: Machine) -> ZeroRules:
    """Of a derived DeepSpeed configuration (``engine.distributed.zero3.zero_config``)."""
    zero = zero_config["zero_optimization"]
    offload = (zero.get("offload_param") or {}).get("device", "none") != "none"
    return ZeroRules(
        int(zero["stage3_prefetch_bucket_size"]),
        int(zero["stage3_max_live_parameters"]),
        int(zero.get("stage3_max_reuse_distance", 10**9)),
        int(zero["stage3_param_persistence_threshold"]),
        int(zero.get("zero_hpz_partition_size", 1)),
        offload and machine.device == "cuda",
    )


@dataclass
class _Parameter:
    """status and users: now. elements: what DeepSpeed counts. brings: this rank's bytes when it is gathered."""

    elements: int
    itemsize: int
    persists: bool
    brings: Gathered
    status: int = AWAY
    users: set[int] = field(default_factory=set)


class Coordinator:
    """One rank's ZeRO-3, from its start. ``micro_batch`` tells what the next one gathers; alike on all ranks where
    their nodes are alike.
    """

    def __init__(self, sizes: ModelFootprint, trace: Trace, rules: ZeroRules, machine: Machine):
        self.rules, self.visits = rules, trace.visits
        self.parameters: dict[str, _Parameter] = {}
        for name, elements, itemsize in sizes.parameters:
            brings = _brought(elements, itemsize, rules, machine)
            self.parameters[name] = _Parameter(elements, itemsize, elements <= rules.persistence, brings)
        self.of_module: Sequence[tuple[str, ...]] = trace.modules
        self.recording, self.complete = False, False
        self.order: list[int] = []  # modules as they were entered
        self.queue: deque[tuple[str, int]] = deque()  # parameters still to fetch, and the step that uses each
        self.uses: list[tuple[str, int]] = []
        self.fetched_for: dict[str, int] = {}
        self.step = self.available = 0
        self.coming: dict[str, int] = {}  # parameter -> number of the gather that brings it
        self.gathers: dict[int, list[str]] = {}
        self.numbers = itertools.count()
        self.backward: dict[int, None] = {}  # modules whose backward pass is on, in order
        self.recomputed: dict[int, set[str]] = {}
        # DeepSpeed keeps its answers, even when the trace is another
        self.to_release: dict[tuple[int, int], frozenset[str]] = {}
        self.counted = Gathered()
        self.whole = self.most_whole = 0  # bytes of parameters that are not partitioned now, and at their most

    def micro_batch(self, kind: str) -> Gathered:
        """What a micro-batch of a kind of ``backbones.tracing.module_trace.KINDS`` brings to this rank.

        Resident backbones gather nothing: do not ask.
        """
        self.counted = Gathered()
        self._start()
        for visit in self.visits[kind]:
            if visit.enters:
                self._enter(visit)
            else:
                self._leave(visit)
        self._leftovers()
        return self.counted

    def steady(self, kind: str) -> Gathered:
        """What each brings when one has followed another for a while."""
        before = self.micro_batch(kind)
        for _ in range(8):
            now = self.micro_batch(kind)
            if now == before and self.complete:
                break
            before = now
        return now

    # ---- the trace

    def _start(self) -> None:
        """reset_step"""
        self._drain()
        if self.recording:
            self.uses = []
            for step, module in enumerate(self.order):
                self.uses += [(name, step) for name in self.of_module[module]]
            self.recording, self.complete = False, True
        elif not self.complete:
            self.recording = True
        self.queue = deque(self.uses)
        self.fetched_for.clear()
        self.step = self.available = 0

    def _follow(self, module: int) -> None:
        """trace_prologue, record_module"""
        if self.complete and (len(self.order) <= self.step or self.order[self.step] != module):
            self.complete, self.order, self.uses = False, [], []
            self.fetched_for.clear()
            self.queue.clear()
            self._drain()
        if self.recording:
            self.order.append(module)

    def _drain(self) -> None:
        """_clean_inflight_param_registry"""
        for name in list(self.coming):
            self._arrive(name)
            self._release(name)
        self.coming.clear()

    # ---- fetching

    def _enter(self, visit: Visit) -> None:
        """fetch_sub_module"""
        module, names = visit.module, self.of_module[visit.module]
        self._follow(module)
        if not visit.forward:
            self.backward.setdefault(module)
        self._gather(names)
        for name in names:
            self.parameters[name].users.add(module)
            if visit.again and visit.forward and self.backward:  # whoever's backward pass asked for it gives it back
                owner = next(reversed(self.backward))
                self.recomputed.setdefault(owner, set()).add(name)
                self.parameters[name].users.add(owner)
            if name in self.coming:
                self._arrive(name)
                del self.coming[name]
        if self.complete:
            self._fetch_ahead(names)
        self.step += 1

    def _fetch_ahead(self, names: Sequence[str]) -> None:
        own = {name for name in names if self.fetched_for.get(name, NEVER) < self.step}
        found: set[str] = set()
        while self.queue and len(found) < len(own):
            name, step = self.queue.popleft()
            self.fetched_for[name] = step
            found.add(name)
        if found != own:
            raise RuntimeError(f"the trace at step {self.step} is another than was recorded")
        most, ahead, elements = min(self.rules.live - self.available, self.rules.prefetch), [], 0
        while self.rules.prefetch > 0 and self.queue and elements < most:
            name, step = self.queue.popleft()
            self.fetched_for[name] = max(self.fetched_for.get(name, NEVER), step)
            if self.parameters[name].status == AWAY and name not in ahead:
                ahead.append(name)
                elements += self.parameters[name].elements
        self._gather(ahead)

    def _gather(self, names: Sequence[str]) -> None:
        """__all_gather_params"""
        away = [name for name in names if self.parameters[name].status == AWAY]
        if not away:
            return
        number = next(self.numbers)
        self.gathers[number] = away
        for name in away:
            parameter = self.parameters[name]
            parameter.status = COMING
            self.whole += parameter.elements * parameter.itemsize
            self.coming[name] = number
            self.available += parameter.elements
            self.counted = self.counted.plus(parameter.brings)
        self.most_whole = max(self.most_whole, self.whole)
        self.counted = self.counted._replace(calls=self.counted.calls + 1)

    def _arrive(self, name: str) -> None:
        """All that one gather brings arrives with the first that is waited for."""
        for other in self.gathers.pop(self.coming[name], ()):
            self.parameters[other].status = HERE

    # ---- releasing

    def _leave(self, visit: Visit) -> None:
        """release_sub_module"""
        module = visit.module
        names = set(self.of_module[module])
        going = set(names)
        if self.complete:
            going = set(self._unused_soon(module))
        if not visit.forward:
            again = self.recomputed.pop(module, set())
            going |= {name for name in again if not self.parameters[name].persists}
            names |= again
            self.backward.pop(module, None)
        for name in names:
            self.parameters[name].users.discard(module)
            if name in going:
                self._release(name)

    def _release(self, name: str) -> None:
        parameter = self.parameters[name]
        if parameter.status == HERE and not parameter.users:
            parameter.status = AWAY
            self.whole -= parameter.elements * parameter.itemsize
            self.available -= parameter.elements

    def _unused_soon(self, module: int) -> frozenset[str]:
        """__params_to_release: all but what the prefetch counts on, and what a module within reach uses again."""
        key = module, self.step
        if key not in self.to_release:
            going = set()
            for name in self.of_module[module]:
                if not self.parameters[name].persists and self.fetched_for.get(name, NEVER) <= self.step:
                    going.add(name)
            self.to_release[key] = frozenset(going.difference(self._within_reach()))
        return self.to_release[key]

    def _within_reach(self) -> Iterator[str]:
        passed = 0
        for module in self.order[self.step :]:
            if passed >= self.rules.reuse:
                return
            for name in self.of_module[module]:
                passed += self.parameters[name].elements
                yield name

    def _leftovers(self) -> None:
        """release_backward_leftovers, which the engine calls after each micro-batch"""
        while self.backward:
            module, _ = self.backward.popitem()
            for name in {*self.of_module[module], *self.recomputed.pop(module, set())}:
                self.parameters[name].users.discard(module)
                if not self.parameters[name].persists:
                    self._release(name)


def _brought(elements: int, itemsize: int, rules: ZeroRules, m: Machine) -> Gathered:
    """By one gather of a parameter: it is padded to a multiple of the ranks; of its shards one is this rank's, the
    others' come from where they lie.
    """
    aligned = -(-elements // m.world) * m.world
    if rules.group > 1:  # whole groups of a node's ranks, or of a part of them; or of several nodes
        each, size = aligned // rules.group * itemsize, rules.group
        near = min(rules.group, m.ranks_per_node)
    else:
        each, size, near = aligned // m.world * itemsize, m.world, m.ranks_per_node
    return Gathered(0, each * (near - 1), each * (size - near), each if rules.uploads else 0)
