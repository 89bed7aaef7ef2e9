"""The table of docs/evidence/faults.md in short: each kind of fault once, on real runs.
``make test-faults`` is the whole.
"""

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults import faults, storage
from tests.faults.faults import NotHit, Runs, Try
from tests.faults.jobs import EVERY, Jobs, can_mount


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    with Jobs(tmp_path_factory.mktemp("faults")) as jobs:
        yield Runs(jobs, random.Random(7), warm=False)


def tried(fault: Callable[[], Try]) -> Try:
    for _ in range(20):
        try:
            return fault()
        except NotHit:
            continue
    raise AssertionError("the fault came too late twenty times")


def holds(outcome: Try, lost: int = EVERY) -> None:
    assert outcome.survived and not outcome.wrong, outcome
    assert outcome.lost <= lost, outcome


def test_one_rank_of_two_is_killed(runs: Runs) -> None:
    holds(
        tried(lambda: faults.one_rank_killed(runs, 0)), EVERY + 1
    )  # the last checkpoint may still be on its way to the disk


def test_killed_as_it_saves(runs: Runs) -> None:
    holds(
        tried(lambda: faults.killed_as_it_saves(runs, 0, ranks=1)), 2
    )  # every=1, and the step that trains as it is written


def test_a_bit_of_the_newest_checkpoint_is_flipped(runs: Runs) -> None:
    holds(storage.newest_damaged(runs, 10, "flipped"))


def test_latest_is_missing(runs: Runs) -> None:
    holds(storage.files_missing(runs, 9), 0)


def test_every_checkpoint_is_damaged(runs: Runs) -> None:
    holds(storage.all_damaged(runs, 0))


def test_the_disk_is_full(runs: Runs, tmp_path: Path) -> None:
    if not can_mount(tmp_path):
        pytest.skip("no file system can be mounted here (root is needed): a full disk is NOT tested")
    holds(
        tried(lambda: storage.disk_full(runs, 1, ranks=1)), EVERY + 1
    )  # a write that fails costs the step that trains meanwhile too: docs/evidence/faults.md


def test_a_save_that_is_killed_at_any_of_its_system_calls(tmp_path: Path) -> None:
    try:
        tries, calls = faults.killed_at_every_call(tmp_path, stride=7)
    except PermissionError:
        pytest.skip("no process may be traced here: a save is NOT killed at its system calls")
    assert calls > 50 and len(tries) > 4 * 50 / 7
    for outcome in tries:
        holds(outcome, 1)
