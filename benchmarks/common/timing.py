"""Medians of alternating calls, on the CPU's clock or the GPU's, and the command line of a component's benchmark."""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from engine.core import library_versions, machine_info, protect, source_commit


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


def run(
    description: str | None,
    measure: Callable[[str, torch.device, int], dict[str, Any]],
    sizes: Mapping[str, Mapping[str, Any]],
    repeats: int,
) -> None:
    """Measure every size of this device, print it, and keep it as JSON where --output says.

    Args:
        measure: (name of a size, device, repeats) -> its result, with the seconds of each call. sizes: device type ->
            name -> size.
    """
    protect()
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--repeats", type=int, default=repeats)
    parser.add_argument("--output", type=Path)
    a = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    cases = []
    for name in sizes[device.type]:
        cases.append(measure(name, device, a.repeats))
        calls = [f"{call} {1e3 * seconds:.3g} ms" for call, seconds in cases[-1]["seconds"].items()]
        print(f"{name}: {', '.join(calls)}", flush=True)
    if a.output:
        a.output.parent.mkdir(parents=True, exist_ok=True)
        a.output.write_text(
            json.dumps(
                {"cases": cases, "machine": machine_info(), "versions": library_versions(), "commit": source_commit()},
                indent=1,
            )
            + "\n"
        )
