"""The hint at the end of a mode, which a study leaves out."""

import pytest

from engine.core.next_step import next_step, without_next_steps


def test_a_study_leaves_the_hint_out_and_what_comes_after_it_has_it_again() -> None:
    assert next_step("python train.py report --runs a") == "; next: python train.py report --runs a"
    with pytest.raises(RuntimeError), without_next_steps():
        assert next_step("python train.py report --runs a") == ""
        raise RuntimeError
    assert next_step("x") == "; next: x"
