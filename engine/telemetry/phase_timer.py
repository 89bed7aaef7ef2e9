"""Where a step's time goes: code says which phase it is in; nothing is measured, and nothing paid, unless a clock runs.

Phases nest; an inner one's time is not the outer one's, so that the phases of a step add up to it. On a GPU they are of
the stream that computes, by events: a phase takes as long there as its work, and the waiting of that stream for a
gather is a phase like the others.
"""

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from backbones.tracing import ISSUE, WAIT, timed_gathers

DATA, PROJECT, FORWARD, LOSS, BACKWARD, REDUCE, STEP, REST = (
    "data",
    "project",
    "forward",
    "loss",
    "backward",
    "reduce",
    "step",
    "rest",
)
PHASES = (DATA, PROJECT, FORWARD, LOSS, BACKWARD, ISSUE, WAIT, REDUCE, STEP, REST)
MEANINGS = {
    DATA: "drawing, reading and packing samples",
    PROJECT: "prompts into the packed row, and their gradient out of it",
    FORWARD: "the backbone's forward passes, a teacher's included",
    LOSS: "head, losses and their gradient",
    BACKWARD: "the backbone's backward pass",
    ISSUE: "starting gathers (on a GPU part of the wait)",
    WAIT: "blocked until gathered weights are there",
    REDUCE: "sums over ranks",
    STEP: "the optimizer",
    REST: "what is left",
}


class PhaseTimer:
    """Seconds of each phase of a step."""

    def __init__(self, device: torch.device):
        self.on_gpu = device.type == "cuda"
        self._stack: list[str] = []
        self._marks: list[tuple[str, Any]] = []  # from each moment on, this phase

    def _now(self) -> Any:
        if not self.on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def enter(self, name: str) -> None:
        """Until the phase that is under way ends."""
        self._stack.append(name)
        self._marks.append((name, self._now()))

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        depth = len(self._stack)
        self.enter(name)
        try:
            yield
        finally:
            del self._stack[depth:]
            outer = self._stack[-1] if self._stack else ""
            self._marks.append((outer, self._now()))

    def take(self) -> dict[str, float]:
        """Seconds of every phase since the last take; waits for the GPU."""
        if self.on_gpu:
            torch.cuda.synchronize()
        out = dict.fromkeys(PHASES, 0.0)
        for (name, begin), (_, end) in zip(self._marks, self._marks[1:], strict=False):
            if name and self.on_gpu:
                out[name] += begin.elapsed_time(end) / 1e3
            elif name:
                out[name] += end - begin
        self._marks = []
        return out


_clock: PhaseTimer | None = None
_NOTHING = contextlib.nullcontext()


def phase(name: str) -> contextlib.AbstractContextManager[None]:
    """A context whose time is this phase's, less that of phases within."""
    if _clock is None:
        return _NOTHING
    return _clock.phase(name)


def backward_from(tensor: Tensor, name: str) -> None:
    """What the backward pass does once it has this tensor's gradient, down to the leaves, is this phase's."""
    if _clock is None or not tensor.requires_grad:
        return

    def enter(_: Tensor) -> None:
        if _clock is not None:
            _clock.enter(name)

    tensor.register_hook(enter)


@contextlib.contextmanager
def measure_phases(device: torch.device) -> Iterator[PhaseTimer]:
    """Within, phases are measured, DeepSpeed's gathers among them."""
    global _clock
    assert _clock is None, "one clock at a time"
    _clock = PhaseTimer(device)
    try:
        with timed_gathers(phase, _clock.on_gpu):
            yield _clock
    finally:
        _clock = None
