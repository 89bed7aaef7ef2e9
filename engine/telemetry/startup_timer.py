"""Where the time went until the first step, and what a signal means that comes before any loop can take it."""

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from types import FrameType

START_AGAIN = 75

_start = time.monotonic()
_marks: list[tuple[str, float]] = []
_told = False
_late = False


def mark_startup(what: str) -> None:
    """``what`` took the time since the mark before, or since this process began."""
    _marks.append((what, time.monotonic()))


def report_first_step() -> str | None:
    """One line, at the end of the process's first step: how long that took to come, and why. None afterwards."""
    global _told
    if _told:
        return None
    from datetime import datetime

    _told = True
    mark_startup("first step")
    took: dict[str, float] = {}
    begin = _start
    for what, end in _marks:
        took[what] = took.get(what, 0.0) + end - begin
        begin = end
    at = datetime.now().strftime("%H:%M:%S.%f")[:-5]
    parts = ", ".join(f"{what} {seconds:.1f}" for what, seconds in took.items())
    return f"first step done at {at}, {begin - _start:.1f} s after the process began: {parts}"


def defer_early_signal(number: signal.Signals, leave: bool = False) -> None:
    """From now on ``number`` does not kill this process. The next loop stops for it after its first step.

    Args:
        leave: there will be no loop, and nothing is lost: leave at once, to be started again.
    """
    signal.signal(number, _leave if leave else _on_signal)


@contextlib.contextmanager
def exit_on_signal(number: signal.Signals = signal.SIGUSR1) -> Iterator[None]:
    """Within, answers are asked, which are on disk as they come: a signal, or one that came before, leaves at once,
    to be started again.
    """
    if take_stop_request():
        _leave(number, None)
    before = signal.getsignal(number)
    defer_early_signal(number, leave=True)
    try:
        yield
    finally:
        signal.signal(number, before)


def carry_stop_request() -> None:
    """A stop was asked for as a loop ended: the next one sees to it, if there is one."""
    global _late
    _late = True


def take_stop_request() -> bool:
    """Whether a stop was asked for outside a loop; the caller sees to it."""
    global _late
    late, _late = _late, False
    return late


def _on_signal(number: int, frame: FrameType | None) -> None:
    carry_stop_request()


def _leave(number: int, frame: FrameType | None) -> None:
    # every rank: which of them is first to go is open, and a launcher may end the rest
    file = os.environ.get("EXIT_CODE_FILE")
    if file:
        with contextlib.suppress(OSError), open(file, "w") as stream:  # the exit code itself says the same
            stream.write(f"{START_AGAIN}\n")
    os._exit(START_AGAIN)
