"""How numbers stand in tables and figures; what was not measured is empty."""

from collections.abc import Mapping, Sequence
from typing import Any

from strict_yaml import counted


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
    return "all examples" if shots == "full" else counted(int(shots), "example")


def significant(value: float, digits: int) -> str:
    """That many digits; a number that has more before its point keeps them all: 0.0123, 2 -> 0.012; 1234, 2 -> 1,234"""
    return f"{value:,.0f}" if abs(value) >= 10**digits - 0.5 else f"{value:.{digits}g}"


def hours(value: float) -> str:
    """Device hours: 0.0123 -> 0.012; 1234.5 -> 1,234"""
    return significant(value, 2)


def device_hours(value: float) -> str:
    """0.0123 -> 0.012 device-hours; 1 -> 1 device-hour"""
    shown = hours(value)
    return f"{shown} device-hour" if shown == "1" else f"{shown} device-hours"


def learning_rate(rate: float | Mapping[str, Any]) -> str:
    """One rate, or several by their names."""
    if not isinstance(rate, Mapping):
        return f"{rate:g}"
    return ", ".join(f"{name} {value:g}" for name, value in rate.items())


NAMES = {
    "metaprompt": "the metaprompt",
    "prompt_tuning": "prompt tuning",
    "lora": "LoRA",
    "multitask_prompt": "the multitask prompt",
    "instruction": "the written instruction",
    "in_context": "in-context examples",
}


def method_name(method: str) -> str:
    """A method within a sentence; a variant as it is written in the configuration."""
    return NAMES.get(method, method)


def with_examples(shots: str) -> str:
    """16 -> with 16 examples"""
    return "without training examples" if shots == "0" else f"with {examples(shots)}"


def listed(words: Sequence[str]) -> str:
    """a, b and c"""
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else "".join(words)
