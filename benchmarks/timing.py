"""Medians of alternating calls, on the CPU's clock or the GPU's."""

import statistics
import time
from collections.abc import Callable, Mapping

import torch


def alternate(calls: Mapping[str, Callable[[], object]], repeats: int, device: torch.device) -> dict[str, float]:
    """Median seconds of each call; they take turns, so that what slows the machine slows all."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for name in calls:
        calls[name]()  # warm-up, and compilation
    for _ in range(repeats):
        for name, call in calls.items():
            seconds[name].append(_once(call, device))
    return {name: statistics.median(values) for name, values in seconds.items()}


def _once(call: Callable[[], object], device: torch.device) -> float:
    if device.type == "cuda":
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        call()
        end.record()
        torch.cuda.synchronize()
        return begin.elapsed_time(end) / 1e3
    started = time.perf_counter()
    call()
    return time.perf_counter() - started
