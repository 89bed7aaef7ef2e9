"""A rank that makes no progress ends the job, and says who and where it was: a hung collective would else hold a
cluster's nodes for hours.

The rank that speaks is one that waits. Who it waits for stands in a roll: every rank's watch signs it each few seconds
with what that rank is about.
"""

import faulthandler
import json
import os
import socket
import sys
import threading
import time
from typing import Any

FAULT = 1
SHOWN = 16  # ranks, at most
_last: tuple[float, str] = (time.monotonic(), "start")
_started = False


def last_progress() -> str:
    """What this rank was about to do when it last noted anything."""
    return _last[1]


def spoken_after(minutes: float) -> float:
    """Seconds after the last note by which the watch has ended a process that makes no progress."""
    return 60 * minutes + _pause(60 * minutes)


def _pause(seconds: float) -> float:
    return min(5.0, seconds / 4)


def note_progress(what: str) -> None:
    """Progress: what this rank is about to do, a collective for the most part."""
    global _last
    _last = (time.monotonic(), what)


def start_watchdog(minutes: float, rank: int, world: int = 1, store: Any = None) -> None:
    """End this process when nothing was noted for so long. Once a process.

    Args:
        store: torch's, of ``world`` ranks, for this thread alone: there the roll is.
    """
    global _started
    if _started:
        return
    _started = True
    note_progress("start")
    threading.Thread(
        target=_watch,
        args=(60 * minutes, rank, Heartbeats(store, rank, world, every=_pause(60 * minutes))),
        daemon=True,
        name="watch",
    ).start()


class Heartbeats:
    """Signs of life of all ranks. Whatever is wrong with the store, a watch goes on without it."""

    def __init__(self, store: Any, rank: int, world: int, every: float):
        self.store, self.rank, self.world, self.every = store, rank, world, every
        if world == 1:
            self.store = None

    def sign(self) -> None:
        if self.store is not None:
            at, what = _last
            content = {"host": socket.gethostname(), "time": time.time(), "idle": time.monotonic() - at, "last": what}
            try:
                self.store.set(f"watch/{self.rank}", json.dumps(content))
            except Exception:
                self.store = None

    def others(self, own: str) -> list[str]:
        """Ranks that are silent or about something else than this one: a line each."""
        found: list[tuple[float, str]] = []
        if self.store is None:
            return []
        try:
            for rank in range(self.world):
                if rank == self.rank:
                    continue
                if not self.store.check([f"watch/{rank}"]):
                    found.append((float("inf"), f"rank {rank}: no sign of life since the start"))
                    continue
                there = json.loads(self.store.get(f"watch/{rank}"))
                silent = time.time() - there["time"]
                alive = silent < 2.5 * self.every
                if not alive or there["last"] != own:
                    life = f"no sign of life for {silent:.0f} s"
                    if alive:
                        life = f"idle for {there['idle'] + silent:.0f} s"
                    found.append((silent, f"rank {rank} on {there['host']}: {life}; last: {there['last']}"))
        except Exception as error:
            found.append((0.0, f"the other ranks cannot be reached ({type(error).__name__})"))
        lines = [line for _, line in sorted(found, reverse=True)]
        if len(lines) > SHOWN:
            return [*lines[:SHOWN], f"and {len(lines) - SHOWN} more"]
        return lines


def _watch(seconds: float, rank: int, roll: Heartbeats) -> None:
    while True:
        roll.sign()
        time.sleep(_pause(seconds))
        begin, what = _last
        if time.monotonic() - begin > seconds:
            for line in roll.others(what):
                print(f"fault: waited for: {line}", file=sys.stderr, flush=True)
            print(
                (
                    f"fault: rank {rank} on {socket.gethostname()} made no progress for {seconds / 60:g} minutes; "
                    f"last: {what}. The frames of its threads:"
                ),
                file=sys.stderr,
                flush=True,
            )
            faulthandler.dump_traceback(all_threads=True)
            os._exit(FAULT)
