"""Teachers on disk: the same gradients, computed once, for their user alone, whatever happens on the way."""

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from engine.core.errors import UserError
from engine.training.forward_backward import ForwardBackward
from engine.training.stage import Stage
from engine.training.teachers import cache as teacher_cache, cache_setup as teacher_cache_setup, files as teacher_files
from engine.training.teachers.cache import TaughtRow, TeacherCache
from engine.training.teachers.cache_setup import sample_visits
from prompt_modules import SoftPromptBank
from tests.engine.cached_teachers import cut, files, gradients, trained


def test_gradients_are_those_of_teachers_that_are_asked(cached, near, tmp_path) -> None:
    asked, said = cached(**{"distill.teacher_cache": "off"})
    assert asked.stage.cached_teachers is None and not said and not (tmp_path / "cache").exists()
    kept, said = cached()
    assert kept.stage.cached_teachers is not None and "answer tokens" in said[0] and "MB" in said[0]
    kept.stage.teachers = None  # nobody is asked any more
    for a, b in zip(gradients(asked), gradients(kept), strict=True):
        for name, gradient in a.items():
            near(b[name], gradient, 1e-11)


def test_only_its_user_reads_it(cached, tmp_path) -> None:
    cached()
    for path in (tmp_path / "cache").rglob("*"):
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600)
    assert files(tmp_path / "cache")


def test_what_is_there_is_not_computed_again(cached, tmp_path) -> None:
    cached()
    first = files(tmp_path / "cache")
    _, said = cached(**{"seed": 5, "distill.steps": 9})  # another run, the same teachers
    assert files(tmp_path / "cache") == first and said == [f"teacher cache: reused from {tmp_path / 'cache'}"]
    lost = sorted(first)[2]
    lost.unlink()  # as if it had been killed
    cached()
    second = files(tmp_path / "cache")
    assert second.keys() == first.keys() and [f for f in first if second[f] != first[f]] == [lost]


def test_long_fillings_and_verifications_are_told(cached, monkeypatch) -> None:
    monkeypatch.setattr(teacher_cache, "TOLD", -1.0)  # every one is long
    _, said = cached()
    assert any(re.search(r"teacher cache: \d+ files filled in \d+ s, \d+ micro-batches a rank", line) for line in said)
    _, said = cached()
    assert any(re.search(r"teacher cache: [\d.]+ GB verified in \d+ s", line) for line in said)


def test_other_temperatures_have_other_files(cached, tmp_path) -> None:
    cached()
    first = files(tmp_path / "cache")
    cached(**{"distill.temperature": 1.0})
    assert len(files(tmp_path / "cache")) == 2 * len(first)


def cache_of(folder: Path, stage: Stage, prompts: torch.Tensor) -> TeacherCache:
    rows = [TaughtRow(r.task, prompts[k], r.train, r.train_indices) for k, r in enumerate(stage.rows)]
    return TeacherCache(rows, folder, decided_by="x", temperature=1.0, hidden=prompts.shape[-1], itemsize=8)


@pytest.mark.parametrize("world", [1, 2, 3])
def test_ranks_share_the_work_and_write_the_same(cached, backbone, tmp_path, world) -> None:
    trainer, _ = cached(**{"distill.teacher_cache": "off"})
    prompts = torch.randn(3, 5, 64, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    said = []
    calls = []
    for rank in range(world):
        cache = cache_of(tmp_path / "many", trainer.stage, prompts)
        forward_backward = ForwardBackward(backbone, True, 30, rank, world)
        bank = SoftPromptBank(prompts)
        bank.packed_sequence = lambda *a, row=bank.packed_sequence, rank=rank: calls.append(rank) or row(*a)
        cache.fill(list(range(len(cache.parts))), forward_backward, bank, said.append)
    assert len({calls.count(rank) for rank in range(world)}) == 1  # under ZeRO-3 every rank must call alike
    assert all(part.file.exists() for part in cache.parts)
    alone = cache_of(tmp_path / "alone", trainer.stage, prompts)
    alone.fill(
        list(range(len(alone.parts))), ForwardBackward(backbone, True, 30, 0, 1), SoftPromptBank(prompts), said.append
    )
    for a, b in zip(cache.parts, alone.parts, strict=True):
        assert a.file.read_bytes() == b.file.read_bytes()


def test_visits_are_those_of_the_run(cached) -> None:
    trainer, _ = cached()
    expected = sample_visits(trainer.stage)
    found = dict.fromkeys(expected, 0)
    for step in range(trainer.stage.total_steps):
        trainer.gradients(step)
        for pick in trainer.last_samples:
            found[pick.row, pick.index] += 1
    assert found == dict(expected)


def test_auto_keeps_nothing_that_is_read_once(cached, tmp_path) -> None:
    trainer, said = cached(**{"distill.steps": 1})
    assert trainer.stage.cached_teachers is None and "off" in said[0] and not files(tmp_path / "cache")


def test_auto_leaves_room_on_the_disk(cached, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(teacher_cache_setup, "DISK_SHARE", 0.0)
    trainer, said = cached()
    assert trainer.stage.cached_teachers is None and "that are free" in said[0] and not files(tmp_path / "cache")


def test_a_limit_that_is_too_small_is_the_users_error(cached, tmp_path) -> None:
    with pytest.raises(UserError, match="distill.teacher_cache: 0.00001 GB .* too little for .* answer tokens"):
        cached(**{"distill.teacher_cache": "0.00001"})
    assert not files(tmp_path / "cache")
    trainer, _ = cached(**{"distill.teacher_cache": "0.1"})
    assert trainer.stage.cached_teachers is not None


def test_a_full_disk_leaves_no_half_written_file(cached, tmp_path, monkeypatch) -> None:
    def full(tensors, path, metadata):
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(teacher_files, "save_file", full)
    with pytest.raises(UserError, match="cannot be written .*No space left.* set distill.teacher_cache: off"):
        cached()
    assert not [p for p in (tmp_path / "cache").rglob("*") if p.is_file()]


def test_the_plain_formulation_asks_its_teachers(cached) -> None:
    trainer, said = cached(batching="padded")
    assert trainer.stage.cached_teachers is None and not said


# ---- damaged files ---------------------------------------------------------------------------------------------------


def flipped(file: Path, place: int) -> None:
    content = bytearray(file.read_bytes())
    content[place] ^= 1 << 4
    file.write_bytes(bytes(content))


def swapped(a: Path, b: Path) -> None:
    content = a.read_bytes()
    a.write_bytes(b.read_bytes())
    b.write_bytes(content)


DAMAGES: dict[str, tuple[Callable[[list[Path]], None], int, str]] = {
    "a bit of the data": (lambda f: flipped(f[1], -40), 1, "checksum differs"),
    "a bit of the last byte": (lambda f: flipped(f[1], -1), 1, "checksum differs"),
    "a bit of the header": (lambda f: flipped(f[1], 150), 1, "checksum differs"),
    "a bit of the header's length": (lambda f: flipped(f[1], 7), 1, "header"),
    "cut in the data": (lambda f: cut(f[1], -9), 1, "damaged or cut"),
    "cut in the header": (lambda f: cut(f[1], 20), 1, "damaged or truncated header"),
    "empty": (lambda f: cut(f[1], 0), 1, "is empty"),
    "swapped": (lambda f: swapped(f[0], f[1]), 2, "a different, intact file"),
    "swapped with another teacher's": (lambda f: swapped(f[0], f[-1]), 2, "a different, intact file"),
}


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_file_is_named_and_computed_again(cached, tmp_path, how) -> None:
    trainer, _ = cached(run_dir=str(tmp_path / "whole"))
    wanted = trained(trainer)
    there = sorted(files(tmp_path / "cache"))
    contents = {file: file.read_bytes() for file in there}
    hurt, count, reason = DAMAGES[how]
    hurt(there)
    damaged = [file for file in there if file.read_bytes() != contents[file]]
    assert len(damaged) == count
    trainer, said = cached(run_dir=str(tmp_path / "again"))
    warned = [line for line in said if line.startswith("WARNING")]
    assert len(warned) == count and all(reason in line and "recomputed" in line for line in warned)
    assert all(any(str(file) in line for line in warned) for file in damaged)
    found = trained(trainer)
    assert all(found[name].equal(tensor) for name, tensor in wanted.items())
    assert {file: file.read_bytes() for file in sorted(files(tmp_path / "cache"))} == contents
    _, said = cached(run_dir=str(tmp_path / "third"))
    assert said == [f"teacher cache: reused from {tmp_path / 'cache'}"]


@pytest.mark.parametrize("world", [1, 2, 3])
def test_ranks_share_the_reading(cached, backbone, tmp_path, monkeypatch, world) -> None:
    trainer, _ = cached(**{"distill.teacher_cache": "off"})
    cache = cache_of(tmp_path / "many", trainer.stage, torch.randn(3, 5, 64, dtype=torch.float64))
    numbers, bank = list(range(len(cache.parts))), SoftPromptBank(torch.zeros(3, 5, 64))
    cache.fill(numbers, ForwardBackward(backbone, True, 30, 0, 1), bank, print)
    read: list[Path] = []
    check = teacher_cache.damage
    monkeypatch.setattr(teacher_cache, "damage", lambda file, of: (read.append(file), check(file, of))[1])
    for rank in range(world):
        assert cache.damaged(numbers, rank, world, print) == []
    assert sorted(read) == sorted(part.file for part in cache.parts)


def test_files_and_their_folder_are_on_disk(cached, tmp_path, monkeypatch) -> None:
    synced: list[str] = []
    fsync = os.fsync

    def sync(handle: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{handle}"))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", sync)
    cached()
    written = files(tmp_path / "cache")
    assert len([name for name in synced if name.endswith(".partial")]) == len(written)
    assert {str(file.parent) for file in written} | {str(tmp_path / "cache")} <= set(synced)


def test_a_file_that_is_damaged_under_a_run_is_named(cached, tmp_path) -> None:
    trainer, _ = cached()
    for file in files(tmp_path / "cache"):
        cut(file, 30)
    with pytest.raises(RuntimeError, match="safetensors was intact when this run began .* start again"):
        gradients(trainer)
    trainer, said = cached()
    assert any("WARNING" in line for line in said)
    gradients(trainer)
