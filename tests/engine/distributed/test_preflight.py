"""What is checked before anything starts."""

import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from engine.config.schema import RunConfig
from engine.distributed.preflight import OLDEST, output_problems, preflight_problems


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


def test_a_place_for_output_must_be_in_a_folder_that_can_be_written_to(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("x")
    assert output_problems({"output": str(file), "png": str(tmp_path / "new/a.png")}) == []
    assert output_problems({"output": f"{file}/a.json", "png": "$NOPE/a.png", "nodes": "1"}) == [
        f"command line: --output: {file} is a file; name a place inside a folder",
        "command line: --png: $NOPE/a.png: an environment variable in it is not set",
    ]
    (told,) = output_problems({"output": "/proc/a.json"})
    assert told.startswith("command line: --output: /proc/a.json: ") and "written" in told
    assert output_problems({"output": "/dev/null"}) == []


@pytest.mark.parametrize(("total", "told"), [(10**9, 1), (0, 0)])
def test_a_full_disk_is_told_and_a_disk_that_does_not_tell_its_size_is_used(
    total: int, told: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = SimpleNamespace(total=total, used=total, free=0)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    found = output_problems({"output": str(tmp_path / "new")})
    assert len(found) == told and all("no free space" in problem for problem in found)


def test_a_variable_that_is_not_set_does_not_hide_another_folder(tmp_path: Path) -> None:
    config = RunConfig(run_dir="$NOPE/run")
    (tmp_path / "file").write_text("x")
    config.data.cache = str(tmp_path / "file/cache")
    assert preflight_problems(config, 0) == [
        "run_dir: $NOPE/run: an environment variable in it is not set",
        f"data.cache: {tmp_path / 'file'} is a file; name a folder",
    ]


def test_reasons_against_older_releases_are_in_the_present() -> None:
    assert all("tried" not in why and "raced" not in why for _, why in OLDEST.values())
