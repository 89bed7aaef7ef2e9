"""What the section of a distillation refuses."""

import pytest

from engine.config.schema import RunConfig

WRONG = "distill.teacher_cache: must be auto, off or a number of GB; got "


@pytest.mark.parametrize("size", ["auto", "off", "0.5", "20"])
def test_a_limit_of_the_teacher_cache_is_a_number_above_0(size: str) -> None:
    found = RunConfig(run_dir="runs/x", backbone="b.yaml")
    found.distill.teacher_cache = size
    assert found.distill.problems() == []


@pytest.mark.parametrize("size", ["0", "1.2.3", "-1", "big"])
def test_another_limit_of_the_teacher_cache_is_refused(size: str) -> None:
    found = RunConfig(run_dir="runs/x", backbone="b.yaml")
    found.distill.teacher_cache = size
    assert found.distill.problems() == [f"{WRONG}{size!r}"]
