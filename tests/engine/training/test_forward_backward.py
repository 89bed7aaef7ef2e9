"""What surrounds a micro-batch's passes: the backbone is released after each, and phases are told apart."""

from collections.abc import Callable

import pytest
import torch

from engine.data.sample import Sample
from engine.distributed.zero3 import ShardedBackbone
from engine.telemetry.phase_timer import BACKWARD, PROJECT, measure_phases
from engine.training.forward_backward import ForwardBackward, LossWeights
from prompt_modules.bank import JoinedBank

GROUP = [Sample([4, 5, 6], [7, 8], row=0), Sample([9, 10], [11], row=1)]


@pytest.fixture
def bank(teachers: Callable[[int], JoinedBank]) -> JoinedBank:
    return teachers(2).double().requires_grad_(True)


@pytest.fixture(params=["packed", "padded"])
def forward_backward(request: pytest.FixtureRequest, backbone: ShardedBackbone) -> ForwardBackward:
    return ForwardBackward(backbone, request.param == "packed", max_tokens_per_micro_batch=100, rank=0, world=1)


def test_the_backbone_is_released_after_every_micro_batch(
    forward_backward: ForwardBackward, bank: JoinedBank, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under ZeRO-3 parameters would stay gathered, which one process does not show."""
    released: list[str] = []
    monkeypatch.setattr(forward_backward.backbone, "release", lambda: released.append("release"))
    forward_backward.train(GROUP, bank, LossWeights(), teachers=None, cached=None)
    assert len(released) == 1
    forward_backward.cross_entropies(GROUP, bank)
    assert len(released) == 2
    forward_backward.teach(GROUP, bank, temperature=1.0)
    assert len(released) == 3


def test_a_prompts_gradient_is_timed_as_projection(forward_backward: ForwardBackward, bank: JoinedBank) -> None:
    with measure_phases(torch.device("cpu")) as clock:
        forward_backward.train(GROUP, bank, LossWeights(), teachers=None, cached=None)
    phases = [name for name, _ in clock._marks]
    assert PROJECT in phases[phases.index(BACKWARD) :]
