"""What is checked before anything starts."""

import os
from pathlib import Path

import pytest

from engine.config.schema import RunConfig
from engine.distributed.preflight import preflight_problems


def test_folders_that_cannot_be_written_and_disks_without_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = RunConfig(run_dir=str(tmp_path / "a/b"))
    config.data.cache = str(tmp_path / "cache")
    assert preflight_problems(config, 1000) == []
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    found = preflight_problems(config, 1000)
    assert (
        len(found) == 2
        and found[0].startswith("run_dir: ")
        and f"{tmp_path} cannot be written to" in found[0]
        and found[1].startswith("data.cache: ")
    )
    monkeypatch.undo()
    assert (
        "run_dir: " in preflight_problems(config, 10**15)[0]
        and "GB are free there" in preflight_problems(config, 10**15)[0]
    )
    (tmp_path / "file").write_text("x")
    config.run_dir = str(tmp_path / "file/run")
    assert preflight_problems(config, 0) == [f"run_dir: {tmp_path / 'file'} is a file; name a folder"]
