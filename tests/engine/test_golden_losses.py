"""The first losses of two fixed runs, as numbers: a refactoring that changes them changes the method.

If a change is meant to move them, print the new ones: python -m pytest tests/engine/test_golden_losses.py --tb=short
"""

import pytest

from engine.stages import distill_stage, teach_stage

TEACH: list[float] = []
DISTILL: list[dict[str, float]] = []
EXACT = {"rel": 0, "abs": 1e-6}


def test_teach(make_session, make_loop, tasks, metrics) -> None:
    session = make_session(**{"teach.steps": 5, "teach.warmup_steps": 1})
    loop = make_loop(teach_stage(session, tasks), session)
    loop.run()
    print([line["loss"] for line in metrics(loop.stage.run_dir)])
    assert [line["loss"] for line in metrics(loop.stage.run_dir)] == pytest.approx(TEACH, **EXACT)


def test_distill(make_session, make_loop, teachers, tasks, metrics) -> None:
    session = make_session(**{"distill.steps": 5, "distill.warmup_steps": 1, "distill.temperature": 2.0})
    loop = make_loop(distill_stage(session, tasks, teachers(3), "hash"), session)
    loop.run()
    lines = metrics(loop.stage.run_dir)
    found = [{name: line[name] for name in ("loss", "ce", "kl", "hidden", "prompt_drift")} for line in lines]
    print(found)
    assert found == [pytest.approx(wanted, **EXACT) for wanted in DISTILL]
    for line in found:
        assert line["loss"] == pytest.approx(line["ce"] + 0.9 * line["kl"] + 0.9 * line["hidden"], rel=1e-12)
