"""How numbers stand in tables and figures; what was not measured is empty."""

from collections.abc import Mapping
from typing import Any


def score(value: float | None) -> str:
    """0.5 -> 0.500"""
    return "" if value is None else f"{value:.3f}"


def plus_minus(half: float | None) -> str:
    """0.02 -> ± 0.020"""
    return "" if half is None else f"± {half:.3f}"


def with_spread(value: float, half: float | None) -> str:
    """0.5, 0.02 -> 0.500 ± 0.020"""
    return f"{score(value)} {plus_minus(half)}".strip()


def examples(shots: str) -> str:
    """full -> all examples"""
    return "all examples" if shots == "full" else f"{shots} examples"


def learning_rate(rate: float | Mapping[str, Any]) -> str:
    """One rate, or several by their names."""
    if not isinstance(rate, Mapping):
        return f"{rate:g}"
    return ", ".join(f"{name} {value:g}" for name, value in rate.items())
