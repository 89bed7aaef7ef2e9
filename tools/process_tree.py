"""A process with everything that it started."""

import contextlib
import os
import signal
import time
from pathlib import Path


def descendants(pid: int) -> list[int]:
    """Process ids of children, their children and so on; none of a process that has gone."""
    found = []
    for child in children(pid):
        found += [child, *descendants(child)]
    return found


def children(pid: int) -> list[int]:
    """Process ids of what any thread of a process has started, oldest first."""
    found: list[int] = []
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            found += map(int, (task / "children").read_text().split())
    except OSError:  # it has ended meanwhile
        pass
    return sorted(found)


def kill_tree(pid: int) -> list[int]:
    """SIGKILL a process and what it started, together, as a node's power failure does. -> their ids."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGSTOP)  # it starts nothing further
    killed = [pid, *descendants(pid)]
    for one in killed:
        with contextlib.suppress(ProcessLookupError):
            os.kill(one, signal.SIGKILL)
    return killed


def wait_until_gone(pids: list[int], longest: float = 30.0) -> None:
    """A process that has ended and that nobody has waited for counts as gone.

    Raises:
        TimeoutError: one of them is still there.
    """
    deadline = time.monotonic() + longest
    while any(is_running(pid) for pid in pids):
        if time.monotonic() > deadline:
            raise TimeoutError(f"of processes {pids} some are still there after {longest} s")
        time.sleep(0.005)


def is_running(pid: int) -> bool:
    """Whether a process is there and has not ended; one that nobody has waited for has ended."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in ("Z", "X")
