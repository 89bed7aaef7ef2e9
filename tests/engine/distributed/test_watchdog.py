"""A rank that makes no progress ends the job, and says who it was, where, and whom it waited for."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from torch.distributed import HashStore

from engine.distributed import watchdog

pytestmark = pytest.mark.slow


def test_a_hung_rank_ends_and_says_where_it_was(project: Path) -> None:
    code = (
        "import time; from engine.distributed import watchdog as watch\n"
        "watch.start_watchdog(0.01, 3); watch.note_progress('sum of 12 numbers over ranks')\n"
        "def stuck():\n    time.sleep(60)\n"
        "stuck()"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=project, capture_output=True, text=True, timeout=30)
    assert done.returncode == 1
    assert (
        "rank 3 on " in done.stderr
        and "made no progress for 0.01 minutes; last: sum of 12 numbers over ranks" in done.stderr
        and "stuck" in done.stderr
    )


@pytest.mark.parametrize("minutes", [0.05, 1.0, 30.0])
def test_the_watch_speaks_before_a_collective_times_out(minutes: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """A library's time-out knows neither host nor collective, and ends the process all the same."""
    import deepspeed

    from engine.distributed import process_group

    asked: list[float] = []
    monkeypatch.setattr(os, "environ", dict(os.environ))
    for module, name in ((deepspeed, "init_distributed"), (process_group.dist, "init_process_group")):
        monkeypatch.setattr(module, name, lambda *_, timeout, **__: asked.append(timeout.total_seconds()))
    monkeypatch.setattr(process_group.dist, "is_initialized", lambda: False)
    process_group.start_process_group(process_group.DistEnv(0, 1, 0), minutes)
    assert (
        len(set(asked)) == 1
        and 60 * minutes < watchdog.spoken_after(minutes) < asked[0] < 60 * minutes + 8
        and watchdog.last_progress() == "joining the process group"
    )


def test_a_rank_that_goes_on_is_left_alone(project: Path) -> None:
    code = (
        "import time; from engine.distributed import watchdog as watch\nwatch.start_watchdog(0.02, 0)\nfor _ in "
        "range(8):\n    time.sleep(0.4); "
        "watch.note_progress('x')\nprint('done')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=project, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr


def test_the_rank_that_is_waited_for_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(time, "time", lambda: now[0])
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    store = HashStore()
    rolls = [watchdog.Heartbeats(store, rank, world=5, every=5.0) for rank in range(5)]
    for rank, what in ((1, "a sum"), (2, "a barrier"), (3, "a sum")):
        monkeypatch.setattr(watchdog, "_last", (now[0], what))
        rolls[rank].sign()
    now[0] += 30  # of rank 1 nothing is heard any more; the others wait, and sign
    for rank, what in ((2, "a barrier"), (3, "a sum")):
        monkeypatch.setattr(watchdog, "_last", (now[0] - 20, what))
        rolls[rank].sign()
    host = socket.gethostname()
    assert rolls[0].others("a sum") == [  # rank 3 waits as this one does
        "rank 4: no sign of life since the start",
        f"rank 1 on {host}: no sign of life for 30 s; last: a sum",
        f"rank 2 on {host}: idle for 20 s; last: a barrier",
    ]
    assert watchdog.Heartbeats(None, rank=0, world=1, every=1.0).others("a sum") == []
