"""The one backbone that a process holds: lent again while a run asks for the same, and given back for another."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from engine.distributed.zero3 import ShardedBackbone
from engine.training import backbone_holder
from engine.training.backbone_holder import BackboneHolder


@pytest.fixture
def build(make_holder: Callable[..., BackboneHolder], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """``build(fused="off")``: the backbone of a run, without a process group."""
    monkeypatch.setattr(backbone_holder, "_standing", None)
    monkeypatch.setattr(BackboneHolder, "join", lambda _: torch.device("cpu"))

    def make(**changes: Any) -> ShardedBackbone:
        holder = make_holder(**changes)
        holder._backbone = None  # not that of the other tests
        return holder.backbone()

    return make


def test_the_same_backbone_is_lent_again_and_makes_room_for_another(build: Callable[..., ShardedBackbone]) -> None:
    first = build()
    assert build() is first
    second = build(fused="off")
    assert not hasattr(first, "model")  # destroyed: there may be no room for both
    assert second is not first and build(fused="off") is second
