"""A rank that makes no progress ends the job, and says who and where it was: a hung collective would else hold a cluster's nodes for hours."""

import faulthandler
import os
import socket
import sys
import threading
import time

FAULT = 1
_last: tuple[float, str] = (time.monotonic(), "start")
_started = False


def last() -> str:
    """What this rank was about to do when it last noted anything."""
    return _last[1]


def spoken_after(minutes: float) -> float:
    """Seconds after the last note by which the watch has ended a process that makes no progress."""
    return 60 * minutes + _pause(60 * minutes)


def _pause(seconds: float) -> float:
    return min(5.0, seconds / 4)


def note(what: str) -> None:
    """Progress: what this rank is about to do, a collective for the most part."""
    global _last
    _last = (time.monotonic(), what)


def start(minutes: float, rank: int) -> None:
    """End this process when nothing was noted for so long. Once a process."""
    global _started
    if _started:
        return
    _started = True
    note("start")
    threading.Thread(target=_watch, args=(60 * minutes, rank), daemon=True, name="watch").start()


def _watch(seconds: float, rank: int) -> None:
    while True:
        time.sleep(_pause(seconds))
        begin, what = _last
        if time.monotonic() - begin > seconds:
            print(f"fault: rank {rank} on {socket.gethostname()} made no progress for {seconds / 60:g} minutes; last: {what}. The frames of its threads:",
                  file=sys.stderr, flush=True)  # fmt: skip
            faulthandler.dump_traceback(all_threads=True)
            os._exit(FAULT)
