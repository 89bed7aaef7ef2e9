"""What an adaptation says of how many numbers a task trains."""

from types import SimpleNamespace
from typing import Any

import pytest

import backbones
from engine.recipes.adapt import _print_trainable


@pytest.mark.parametrize(
    ("parameters", "numbers", "warned"),
    [(8_000_000_000, 4_000_001, True), (8_000_000_000, 4_000_000, False), (2_177_472, 3072, False)],
    ids=["above 0.05 % of a large backbone", "not above it", "a small backbone"],
)
def test_a_large_part_is_warned_about_where_the_backbone_is_large(
    parameters: int, numbers: int, warned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backbones, "parameter_count", lambda model: parameters, raising=False)
    lines: list[str] = []
    holder: Any = SimpleNamespace(
        backbone=lambda: SimpleNamespace(model=None), context=SimpleNamespace(print_rank0=lines.append)
    )
    part = SimpleNamespace(numbers_per_row=lambda: numbers)
    _print_trainable(holder, SimpleNamespace(parts={"lora": part}))
    assert lines[0].startswith(f"trainable for one adapted task, lora: {numbers:,} numbers, ")
    assert any(line.startswith("WARNING lora:") for line in lines) is warned
