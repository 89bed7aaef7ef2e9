"""One writer a run directory."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.checkpoints import checkpoint
from engine.checkpoints.checkpoint import Checkpoint
from engine.checkpoints.run_lock import RunLock, RunLockLost
from engine.training.trainer import Trainer
from tests.engine.interrupted_runs import at_step

pytestmark = pytest.mark.usefixtures("nothing_asked_for", "ctrl_c_is_not_ignored")


def test_the_older_of_two_jobs_loses_its_right_to_write(
    build: Callable[..., Trainer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    trainer = build("run", **{"checkpoint.interval": 2, "log.interval": 2})
    trainer.run_lock = trainer.saver.run_lock = RunLock(run_dir)
    newer: list[RunLock] = []
    at_step(
        monkeypatch, trainer, 4, lambda: (trainer.saver.wait(), newer.append(RunLock(run_dir)))
    )  # step 2 is on disk
    with pytest.raises(RunLockLost, match="opened by another job since"):
        trainer.run()
    assert (
        checkpoint.load(run_dir).state["step"] == 2 and len((run_dir / "metrics.jsonl").read_text().splitlines()) == 1
    )  # type: ignore[union-attr]
    newer[0].check()
    assert [p.name for p in run_dir.iterdir() if p.name.startswith(".owner")] == []


def test_a_checkpoint_under_way_is_not_shown_once_the_right_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_lock = RunLock(tmp_path)
    whole = checkpoint.save_file

    def save_file(*args: Any, **kwargs: Any) -> None:
        RunLock(tmp_path)  # another job comes while it writes
        whole(*args, **kwargs)

    monkeypatch.setattr(checkpoint, "save_file", save_file)
    with pytest.raises(RunLockLost):
        checkpoint.save(tmp_path, 3, Checkpoint({"a": torch.ones(1)}, {"b": torch.ones(1)}, {}), 2, run_lock)
    assert not (tmp_path / "latest").exists() and not (tmp_path / "checkpoints/step_00000003").exists()


def test_an_earlier_start_of_a_job_does_not_take_the_directory_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    newer = RunLock(tmp_path)
    monkeypatch.delenv("SLURM_RESTART_COUNT")  # a job's first start has none
    with pytest.raises(RunLockLost, match="later start of job 7 .*restart 1"):
        RunLock(tmp_path)
    newer.check()
    monkeypatch.setenv("SLURM_JOB_ID", "8")
    RunLock(tmp_path)


def test_a_claim_that_was_taken_away_is_lost(tmp_path: Path) -> None:
    run_lock = RunLock(tmp_path)
    run_lock.check()
    run_lock.file.write_text("{")
    with pytest.raises(RunLockLost, match="an unreadable owner"):
        run_lock.check()


def test_owner_says_which_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    RunLock(tmp_path)
    owner = json.loads((tmp_path / "owner.json").read_text())
    assert owner["slurm_job"] == "77" and owner["restart"] == "2" and owner["pid"] == os.getpid()


def test_a_claim_that_cannot_be_written_says_where_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Path, text: str) -> int:
        self.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match=r"No space left on device; nothing was changed. Start .*owner\.json") as error:
        RunLock(tmp_path)
    assert error.value.errno == 28 and list(tmp_path.iterdir()) == []
