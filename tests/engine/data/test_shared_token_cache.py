"""Token rows that several ranks and launches share: built once, waited for, whole or made again."""

import errno
import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from backbones import Layout
from engine.config.schema import DataConfig
from engine.data import corpora as corpora_module, token_cache
from engine.data.dataset import TaskData, data_fingerprint
from tests.engine.cached_corpora import ALL, Prepare, folders, key, problems, rows_of


def flip(file: Path, place: int) -> None:
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(bytes(content))


def swap(a: Path, b: Path) -> None:
    a.rename(a.with_name("aside"))
    b.rename(a)
    a.with_name("aside").rename(b)


DAMAGES: dict[str, Callable[[Path, Path], object]] = {
    "a bit at the front": lambda folder, _: flip(folder / "rows.arrow", 900),
    "a bit in the middle": lambda folder, _: flip(folder / "rows.arrow", (folder / "rows.arrow").stat().st_size // 2),
    "a bit at the end": lambda folder, _: flip(folder / "rows.arrow", -1),
    "cut": lambda folder, _: os.truncate(folder / "rows.arrow", 3000),
    "empty": lambda folder, _: os.truncate(folder / "rows.arrow", 0),
    "rows missing": lambda folder, _: (folder / "rows.arrow").unlink(),
    "checksum missing": lambda folder, _: (folder / "checksum.json").unlink(),
    "checksum damaged": lambda folder, _: flip(folder / "checksum.json", 20),
    "swapped": swap,
}


def test_other_ranks_wait_for_rank_0(run: Prepare, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_cache, "POLL_SECONDS", 0.02)
    found: dict[str, TaskData] = {}
    waiter = threading.Thread(target=lambda: found.update(run({"demo_qa": ["train"]}, rank=1)), daemon=True)
    waiter.start()
    time.sleep(0.3)
    assert waiter.is_alive() and not found
    built = run({"demo_qa": ["train"]})
    waiter.join(timeout=10)
    assert not waiter.is_alive()
    assert data_fingerprint(found) == data_fingerprint(built)


def test_other_ranks_stop_waiting_when_rank_0_fails(
    run: Prepare, corpora: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_cache, "POLL_SECONDS", 0.02)
    (corpora / "demo_qa/questions.json").write_text("{")
    told: list[str] = []
    waiter = threading.Thread(target=lambda: told.extend(problems(run, {"demo_qa": ["train"]}, rank=1)), daemon=True)
    waiter.start()
    time.sleep(0.1)
    assert problems(run, {"demo_qa": ["train"]})
    waiter.join(timeout=10)
    assert not waiter.is_alive()
    assert told == ["task demo_qa: split train: rank 0 could not prepare it; its message says why"]


def test_a_failure_of_an_earlier_launch_stops_nobody(
    run: Prepare, config: DataConfig, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_cache, "POLL_SECONDS", 0.02)
    cache = Path(config.cache)
    cache.mkdir(parents=True)
    marker = cache / f"demo_qa-train-{key(config, layout)}.failed"
    marker.touch()
    os.utime(marker, (time.time() - 60, time.time() - 60))
    found: dict[str, TaskData] = {}
    waiter = threading.Thread(target=lambda: found.update(run({"demo_qa": ["train"]}, rank=1)), daemon=True)
    waiter.start()
    time.sleep(0.2)
    assert waiter.is_alive()
    run({"demo_qa": ["train"]})
    waiter.join(timeout=10)
    assert len(found["demo_qa"].splits["train"]) == 36 and not marker.exists()


def test_two_launches_may_build_the_same_split(
    run: Prepare, config: DataConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second one to finish finds the first one's folder in its place, and uses it."""
    build, first = corpora_module._build, iter([True])

    def overtaken(*args: Any, **named: Any) -> dict[str, str]:
        if next(first, False):
            build(*args, **named)  # the other launch, in the meantime
        return build(*args, **named)

    monkeypatch.setattr(corpora_module, "_build", overtaken)
    assert len(run({"demo_qa": ["train"]})["demo_qa"].splits["train"]) == 36
    assert len(folders(config)) == 1


@pytest.mark.parametrize("how", DAMAGES)
def test_damaged_rows_are_named_and_tokenised_again(run: Prepare, config: DataConfig, how: str) -> None:
    first = run(ALL)
    wanted, mark = rows_of(first), data_fingerprint(first)
    cache = Path(config.cache)
    (train,), (test,) = cache.glob("demo_qa-train-*"), cache.glob("demo_qa-test-*")
    DAMAGES[how](train, test)
    found = run(ALL)
    assert rows_of(found) == wanted and data_fingerprint(found) == mark
    said = run.said  # type: ignore[attr-defined]
    assert len(said) == (2 if how == "swapped" else 1) and any(str(train) in line for line in said)
    assert all(line.startswith("WARNING task demo_qa: split t") and "rebuilt" in line for line in said)
    said.clear()
    assert rows_of(run(ALL)) == wanted and said == []
    assert len(folders(config)) == 4


def test_other_ranks_wait_until_damage_is_mended(
    run: Prepare, config: DataConfig, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    monkeypatch.setattr(token_cache, "POLL_SECONDS", 0.02)
    wanted = rows_of(run({"demo_qa": ["train"]}))
    (folder,) = folders(config)
    flip(folder / "rows.arrow", 900)
    found: dict[str, TaskData] = {}
    waiter = threading.Thread(target=lambda: found.update(run({"demo_qa": ["train"]}, rank=1)), daemon=True)
    waiter.start()
    time.sleep(0.3)
    assert waiter.is_alive() and not found
    run({"demo_qa": ["train"]})
    waiter.join(timeout=10)
    assert not waiter.is_alive() and rows_of(found) == wanted
    assert capfd.readouterr().err.count("rank 1: task demo_qa: split train: ") == 1


def test_what_a_killed_start_left_is_in_nobodys_way(run: Prepare, config: DataConfig) -> None:
    """In a container every start has the same process id."""
    cache = Path(config.cache)
    left = cache / f".demo_qa-train.{os.getpid()}.partial"
    left.mkdir(parents=True)
    assert len(run({"demo_qa": ["train"]})["demo_qa"].splits["train"]) == 36
    assert left.exists()  # it may be of another host's live process
    shutil.rmtree(next(p for p in folders(config) if p != left))
    os.utime(left, (1, 1))
    run({"demo_qa": ["train"]})
    assert not left.exists()


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
def test_a_cache_that_cannot_be_written_is_the_users_error(
    run: Prepare, config: DataConfig, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refused(*_: Any, **how: Any) -> str:
        raise OSError(number, os.strerror(number), str(Path(config.cache) / "x"))

    monkeypatch.setattr("tempfile.mkdtemp", refused)
    (problem,) = problems(run, {"demo_qa": ["train"]})
    assert problem.startswith(f"data.cache: {config.cache} cannot be written to ({os.strerror(number)})")
    assert "--data.cache=FOLDER" in problem
