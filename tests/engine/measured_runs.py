"""Measurements that nobody made: steps with known noise and slowdowns, and benchmark.json around them."""

from typing import Any

import numpy as np

from engine.benchmarking.result import spread
from engine.telemetry import phase_timer

RNG = np.random.default_rng


def steps_of(seed: int, factor: float = 1.0, noise: float = 0.01, n: int = 20) -> list[float]:
    """Seconds of steps that do unequal work, the same of step i whatever the seed."""
    work = 0.5 + RNG(99).random(n)
    return list(factor * work * (1 + noise * RNG(seed).standard_normal(n)))


def content_of(seconds: list[float], probe: float = 0.01, **changes: Any) -> dict[str, Any]:
    """As benchmark.json has it, of one case."""
    n = len(seconds)
    case = {
        "label": "",
        "mode": "teach",
        "backbone": "b",
        "sharding": "zero3",
        "world_size": 2,
        "tokens_per_s": 100 * n / sum(seconds),
        "mfu": None,
        "step_seconds": spread(seconds),
        "peak_gpu_bytes": None,
        "peak_host_bytes": 1000,
        "h2d_bytes_per_step": 0,
        "load_seconds": 1.0,
        "gather_bytes_per_step": {"intra": 10.0, "inter": 0.0},
        "phases": {p: {**spread(seconds), "share": 0.1} for p in phase_timer.PHASES},
        "identity": {
            "mode": "teach",
            "case": "",
            "backbone": "b",
            "weights": "w",
            "rows": "r",
            "config": {"max_tokens_per_micro_batch": 4096, "prompt.num_virtual_tokens": 16},
        },
        "steps": {
            "seconds": seconds,
            "real_tokens": [100] * n,
            "computed_tokens": [120] * n,
            "phases": {"forward": seconds},
            "probe": [probe] * n,
        },
    }
    machine = {"cpu": "c", "gpu": None, "cores": 2, "threads": 1, "nodes": 1, "ranks_per_node": 2}
    return {
        "mode": "teach",
        "world_size": 2,
        "machine": machine,
        "versions": {"torch": "2"},
        "commit": "a",
        "cases": [case],
        **changes,
    }
