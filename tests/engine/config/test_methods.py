"""The registry of methods: what is derived from it, and what a method that is not there yet is refused with."""

import pytest

from engine.config.learning_rates import own_rate, tried_rates
from engine.config.methods import DECOMPOSED, METHODS, SOURCES, TRAINED, UNTRAINED, Method
from engine.config.schema import RunConfig, known_keys
from engine.config.sections import AdaptConfig
from engine.training.adapt import BUILDERS


def test_every_method_is_trained_or_scored_and_its_keys_exist() -> None:
    keys = set(known_keys())
    assert {*TRAINED, *UNTRAINED} == set(METHODS) and not set(TRAINED) & set(UNTRAINED)
    for name in TRAINED:
        assert {f"adapt.{METHODS[name].rate}", f"lr_sweep.{METHODS[name].sweep}"} <= keys
    assert set(SOURCES.values()) <= keys and set(SOURCES) == set(DECOMPOSED)


def test_every_trained_method_has_a_builder() -> None:
    assert set(TRAINED) == {*DECOMPOSED, *BUILDERS}


@pytest.mark.parametrize(
    ("method", "rate"), [("metaprompt", 0.1), ("multitask_prompt", 0.1), ("prompt_tuning", 0.3), ("lora", 1e-3)]
)
def test_a_method_s_rate_is_its_own_key_s(method: str, rate: float) -> None:
    config = RunConfig()
    assert own_rate(config, method) == rate and tried_rates(config, method) == []


def test_a_method_that_is_not_here_is_refused_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    reason = "packed attention takes prompts as embeddings only"
    monkeypatch.setitem(METHODS, "prefix_tuning", Method("keys and values of its own in every layer", missing=reason))
    problems = AdaptConfig(methods=["metaprompt", "prefix_tuning"]).problems()
    assert problems == [f"adapt.methods: 'prefix_tuning' is not here: {reason}"]
