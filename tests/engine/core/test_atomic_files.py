"""Files that are there whole or as they were: synced before they get their name, written under a name of their own."""

import os
import stat
import time
from pathlib import Path

import pytest

from engine.core import atomic_files
from engine.core.atomic_files import is_creatable, new_partial, publish, write_atomic


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """(what, file name) of every sync and rename, in order."""
    seen: list[tuple[str, str]] = []
    fsync, replace = os.fsync, Path.replace

    def synced(handle: int) -> None:
        seen.append(("sync", Path(os.readlink(f"/proc/self/fd/{handle}")).name))
        fsync(handle)

    def replaced(self: Path, target: Path) -> Path:
        seen.append(("rename", target.name))
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", replaced)
    return seen


def test_a_text_is_on_disk_before_it_gets_its_name(tmp_path: Path, calls: list[tuple[str, str]]) -> None:
    write_atomic(tmp_path / "file", "text")
    assert (tmp_path / "file").read_text() == "text"
    assert calls == [("sync", ".file.partial"), ("rename", "file"), ("sync", tmp_path.name)]


def test_a_folder_is_on_disk_before_it_gets_its_name(tmp_path: Path, calls: list[tuple[str, str]]) -> None:
    partial = new_partial(tmp_path / "folder", folder=True)
    (partial / "a").write_text("a")
    publish(partial, tmp_path / "folder")
    assert calls == [("sync", "a"), ("sync", partial.name), ("rename", "folder"), ("sync", tmp_path.name)]
    assert (tmp_path / "folder/a").read_text() == "a"


@pytest.mark.parametrize("folder", [False, True])
def test_writers_of_one_process_id_have_partials_of_their_own(tmp_path: Path, folder: bool) -> None:
    names = {new_partial(tmp_path / "rows", folder) for _ in range(3)}
    assert len(names) == 3 and {p.parent for p in names} == {tmp_path}
    assert all(p.name.endswith(".partial") for p in names)
    assert {stat.S_IMODE(p.stat().st_mode) for p in names} == {0o700 if folder else 0o600}


def test_what_dead_writers_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    old, now = time.time() - 2 * atomic_files.ABANDONED, time.time()
    dead, others = ("rows.7.partial", ".rows.abc.partial"), ("other.7.partial", "rows-2.7.partial", "rows.7")
    left = {name: tmp_path / name for name in (*dead, "rows.8.partial", *others)}
    for path in left.values():
        path.mkdir()
        (path / "content").write_text("x")
        os.utime(path / "content", (old, old))
        os.utime(path, (old, old))
    os.utime(left["rows.8.partial"] / "content", (now, now))  # its writer is at work
    (tmp_path / "rows.9.partial").write_text("x")
    os.utime(tmp_path / "rows.9.partial", (old, old))
    made = new_partial(tmp_path / "rows", folder=True)
    assert {p.name for p in tmp_path.iterdir()} == {made.name, "rows.8.partial", *others}


def test_what_can_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("x")
    assert is_creatable(tmp_path) and is_creatable(tmp_path / "a/b") and not is_creatable(tmp_path / "file/a")
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    assert not is_creatable(tmp_path / "a/b") and not (tmp_path / "a").exists()
