"""``deterministic: true``: what is set on a GPU, when it ends, and what is refused. Whether bits are equal:
tests/gpu.
"""

import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from engine.benchmarking import runner
from engine.benchmarking.cases import request_of
from engine.config.loader import resolve
from engine.config.schema import RunConfig
from engine.core.determinism import deterministic, workspace_problems
from engine.core.errors import UserError
from engine.recipes.finished_runs import evaluate, predict
from engine.recipes.steps import repeatable
from engine.telemetry import phase_timer

DEMO = "configs/demo/distill.yaml"


def state() -> tuple[bool, bool, bool]:
    """Deterministic algorithms, warnings in place of errors, new tensors filled."""
    warns, fills = (
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.utils.deterministic.fill_uninitialized_memory,
    )
    return torch.are_deterministic_algorithms_enabled(), warns, fills


USUAL, SET = (False, False, True), (True, False, False)


@pytest.fixture
def with_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)


@pytest.fixture(autouse=True)
def left_as_it_was() -> Any:
    before = state()
    yield
    assert state() == before == USUAL


def test_the_key_is_read_and_off_by_default() -> None:
    assert resolve(DEMO).deterministic is False
    assert resolve(DEMO, {"deterministic": "true"}).deterministic is True
    with pytest.raises(UserError, match="deterministic: must be true or false"):
        resolve(DEMO, {"deterministic": "maybe"})


def test_a_gpu_is_set_within_and_as_before_afterwards(with_gpu: None) -> None:
    with deterministic(True):
        assert state() == SET
        with deterministic(True):
            assert state() == SET
        with deterministic(False):
            assert state() == SET
    assert state() == USUAL
    with pytest.raises(ZeroDivisionError), deterministic(True):
        _ = 1 / 0
    with deterministic(False):
        assert state() == USUAL


def test_what_the_user_had_set_comes_back(with_gpu: None) -> None:
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with deterministic(True):
            assert state() == SET
        assert state() == (True, True, True)
    finally:
        torch.use_deterministic_algorithms(False)


def test_a_machine_without_a_gpu_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with deterministic(True):
        assert state() == USUAL


def test_it_ends_with_each_command_of_a_process(with_gpu: None) -> None:
    seen: list[tuple[bool, bool, bool]] = []

    @repeatable
    def command(config: RunConfig) -> None:
        seen.append(state())
        if config.seed:
            raise UserError("wrong")

    command(RunConfig(deterministic=True))
    command(RunConfig())
    with pytest.raises(UserError):
        command(RunConfig(deterministic=True, seed=1))
    assert seen == [SET, USUAL, SET]


@pytest.mark.parametrize("mode", ["evaluate", "predict"])
def test_commands_that_read_a_run_can_ask_for_it(
    mode: str, with_gpu: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.yaml").write_text("run_dir: x\nbackbone: b.yaml\n")
    seen = []
    monkeypatch.setattr("engine.training.BackboneHolder.of", lambda config, writes: config)
    monkeypatch.setattr("engine.evaluation.evaluate_run", lambda *_, **__: seen.append(state()))
    monkeypatch.setattr("engine.evaluation.predict_notes", lambda *_, **__: seen.append(state()))
    asked = {"deterministic": "true"}
    if mode == "evaluate":
        evaluate(str(tmp_path), (), asked)
    else:
        predict(str(tmp_path), row=["", "", "", ""], source="notes", output="out.jsonl", overrides=asked)
    assert seen == [SET]


def test_cases_of_a_sweep_take_turns_each_in_its_own_state(with_gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    request = request_of(DEMO, {"steps": "1", "sweep": "deterministic=true,false", "invented": "20,4"}, {})
    assert [case.config.deterministic for case in request.cases] == [True, False]
    for name in ("gpu_held", "gpu_peak", "reset_gpu_peak"):
        monkeypatch.setattr(runner, name, lambda: 0)
    outcome = {"examples": torch.ones(1), "real_tokens": torch.ones(1), "computed_tokens": torch.ones(1)}
    seen = []

    def advance() -> tuple[dict[str, torch.Tensor], None]:
        seen.append(state())
        return outcome, None

    chosen = SimpleNamespace(sharding="replicated", recompute=0, offloaded=False)
    holder: Any = SimpleNamespace(context=SimpleNamespace(card="card"))
    measured = [runner.Measured(case, holder, {}, chosen) for case in request.cases]  # type: ignore[arg-type]
    assert measured[0].lives == measured[1].lives  # one backbone serves both
    cpu = torch.device("cpu")
    with phase_timer.measure_phases(cpu) as clock:
        for m in [*measured, *measured]:
            m.trainer = SimpleNamespace(advance=advance)  # type: ignore[assignment]
            m.backbone = SimpleNamespace(gathers=SimpleNamespace(take=lambda: None))  # type: ignore[assignment]
            runner._step(m, clock, cpu, None)
    assert seen == [SET, USUAL, SET, USUAL]


@pytest.mark.parametrize("value", [":4096:8", ":16:8"])
def test_workspaces_that_repeat_their_sums(value: str) -> None:
    assert workspace_problems({"CUBLAS_WORKSPACE_CONFIG": value}) == []


def test_another_workspace_is_refused_with_the_fix(
    make_holder: Callable[..., Any], with_gpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"  # set before anything could multiply on a GPU
    make_holder(deterministic=True)
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:2:16:8")
    make_holder()
    with pytest.raises(UserError) as error:
        make_holder(deterministic=True)
    (problem,) = error.value.problems
    assert "CUBLAS_WORKSPACE_CONFIG: ':4096:2:16:8'" in problem and "export CUBLAS_WORKSPACE_CONFIG=:4096:8" in problem
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    with pytest.raises(UserError, match="CUBLAS_WORKSPACE_CONFIG: not set"):
        make_holder(deterministic=True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    make_holder(deterministic=True)
