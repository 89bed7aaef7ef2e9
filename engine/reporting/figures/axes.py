"""Axes of charts: from values to places, and the round numbers that stand at them."""

import math
from collections.abc import Callable
from itertools import product

from engine.reporting.words import significant

Scale = Callable[[float], float]


def padded(low: float, high: float, log: bool) -> tuple[float, float]:
    """With room on both sides."""
    if log:
        room = max((high / low) ** 0.06, 1.15)
        return low / room, high * room
    room = (high - low) * 0.07 or abs(high) * 0.1 or 0.1
    return low - room, high + room


def scale(low: float, high: float, start: float, end: float, log: bool) -> Scale:
    """Places of values: ``low`` lies at ``start``, ``high`` at ``end``."""

    def by_difference(value: float) -> float:
        return start + (value - low) / (high - low) * (end - start)

    def by_ratio(value: float) -> float:
        share = (math.log(max(value, low)) - math.log(low)) / (math.log(high) - math.log(low))
        return start + share * (end - start)

    return by_ratio if log else by_difference


def ticks(low: float, high: float, log: bool, most: int = 6, whole: bool = False) -> list[float]:
    """Round numbers from low to high: 1, 2 or 5 times a power of ten; of a logarithmic axis powers of ten, or 1, 2,
    5 where these are few.
    """
    if log:
        return _log_ticks(low, high, most)
    raw = (high - low) / most
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * 0.999)
    if whole:
        step = max(step, 1.0)
    return [round(i * step, 12) for i in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _log_ticks(low: float, high: float, most: int) -> list[float]:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1,), (1, 2, 5)):
        every = [factor * 10.0**exponent for exponent, factor in product(decades, factors)]
        found = [value for value in every if low <= value <= high]
        if len(found) > 1:
            break
    return found[:: math.ceil(len(found) / most)] if found else [low, high]


def short(value: float) -> str:
    """1234567 -> 1.2M; what an axis has room for."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{significant(value / size, 3)}{letter}"
    return significant(value, 2 if abs(value) < 0.1 and value else 3)
