"""Checkpoints that a full disk or a bad one broke: the last whole one is gone on from."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.checkpoints import checkpoint
from engine.checkpoints.checkpoint import Checkpoint, Saver
from engine.core.errors import UserError
from engine.distributed.preemption import PreemptionHandler
from engine.training.trainer import Trainer
from tests.engine.interrupted_runs import prompts

pytestmark = pytest.mark.usefixtures("nothing_asked_for", "ctrl_c_is_not_ignored")


def test_a_full_disk_ends_the_run_with_the_last_checkpoint_whole(
    build: Callable[..., Trainer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "run").mkdir()
    whole, calls = checkpoint.save_file, []

    def save_file(*args: Any, **kwargs: Any) -> None:
        calls.append(1)
        if len(calls) == 4:  # the optimizer's file of the second checkpoint
            raise OSError(28, "No space left on device")
        whole(*args, **kwargs)

    monkeypatch.setattr(checkpoint, "save_file", save_file)
    failed = pytest.raises(OSError, match="checkpoint of step 4 .*No space left.*previous one is intact")
    with PreemptionHandler(tmp_path / "run", "USR1", True) as preemption, failed:
        build("run", preemption, **{"checkpoint.interval": 2}).run()
    assert checkpoint.load(tmp_path / "run").state["step"] == 2  # type: ignore[union-attr]
    monkeypatch.setattr(checkpoint, "save_file", whole)
    again = build("run", None, **{"checkpoint.interval": 2})
    again.run()
    assert again.step == 9 and not list((tmp_path / "run/checkpoints").glob(".*"))


def test_a_checkpoint_holds_the_step_it_was_asked_at_though_training_goes_on(tmp_path: Path) -> None:
    tensor, state = torch.zeros(3), {"progress": [1]}
    saver = Saver(tmp_path, 2)
    saver.start(5, Checkpoint({"a": tensor}, {"b": tensor}, state))
    tensor.fill_(7.0)
    state["progress"].append(2)
    saver.wait()
    found = checkpoint.load(tmp_path)
    assert (
        found is not None
        and found.prompts["a"].eq(0).all()
        and found.optimizer["b"].eq(0).all()
        and found.state["progress"] == [1]
    )


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("name", ["prompts.safetensors", "optimizer.safetensors", "state.json"])
@pytest.mark.parametrize("damage", [flipped, Path.unlink, lambda p: p.write_bytes(p.read_bytes()[:-7])])
def test_a_damaged_checkpoint_is_passed_over_and_said_aloud(
    name: str,
    damage: Callable[[Path], object],
    build: Callable[..., Trainer],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    whole = build("run", **{"checkpoint.interval": 4})
    whole.run()
    expected = prompts(whole)
    damage((tmp_path / "run/latest").resolve() / name)
    with pytest.raises(UserError, match="step_00000009"):
        checkpoint.load(tmp_path / "run")  # a finished run is never read from an earlier step in silence
    again = build("run", **{"checkpoint.interval": 4})
    again.run()
    out = capsys.readouterr().out
    assert (
        "WARNING checkpoint" in out
        and "continuing from step_00000008, which is intact" in out
        and "resumed at step 8 of 9" in out
    )
    for n, tensor in expected.items():
        assert torch.equal(tensor, prompts(again)[n]), n


def test_all_damaged_is_an_error_that_lists_them(build: Callable[..., Trainer], tmp_path: Path) -> None:
    build("run", **{"checkpoint.interval": 4}).run()
    for folder in (tmp_path / "run/checkpoints").glob("step_*"):
        flipped(folder / "prompts.safetensors")
    with pytest.raises(UserError) as error:
        build("run").run()
    assert len(error.value.problems) == 2 and all("--overwrite=true" in p for p in error.value.problems)
