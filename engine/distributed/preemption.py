"""Stop or save on request: by a signal, or by a file in the run directory; every rank at the same step boundary.

A scheduler that preempts sends SIGTERM, or the signal that the job asked for before its time limit; a user presses
Ctrl-C. None of them may end a process in the middle of a step, and a rank that stops alone would leave the others in a
collective: the request is agreed on, the checkpoint written, and only then does anyone leave, with exit code 75
(``EX_TEMPFAIL``: start me again). A second Ctrl-C ends the process at once.
"""

import contextlib
import enum
import os
import signal
import time
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import torch

from engine import telemetry
from engine.distributed import ctrl_c
from engine.distributed.ctrl_c import signal_number
from engine.distributed.process_group import sum_over_ranks, world_size

SAVE_FILE, STOP_FILE, STOPPED_FILE = "SAVE", "STOP", "STOPPED"
ONE_PRESS = 1.0  # seconds: a terminal sends Ctrl-C to all of a group, and a launcher in it may send it on
TOLD = b"interrupted: saves and stops after this step; Ctrl-C again ends it at once, without saving\n"


class StopRequest(enum.IntEnum):
    NONE = 0
    SAVE = 1
    STOP = 2
    FAILED = 3


class PreemptionHandler:
    """Within ``with``, SIGTERM, ``signal_name`` and Ctrl-C (SIGINT) ask for a stop; a second Ctrl-C ends the process.

    Args:
        run_dir: where SAVE and STOP may appear, and STOPPED is left.
        is_main_process: this rank looks for them, and answers Ctrl-C.
    """

    def __init__(self, run_dir: Path, signal_name: str, is_main_process: bool):
        self.run_dir, self.is_main_process = run_dir, is_main_process
        self._preempt = signal_number(signal_name)
        self._asked = self._last = StopRequest.NONE
        self._pressed: float | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "PreemptionHandler":
        self._asked = self._last = StopRequest.NONE
        self._pressed = None
        handlers: dict[signal.Signals, Any] = {signal.SIGTERM: self._on_signal}
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # a background job's shell wants it ignored
            handlers[signal.SIGINT] = self._on_interrupt
        handlers[self._preempt] = self._on_signal
        self._before = {s: signal.signal(s, handler) for s, handler in handlers.items()}
        if telemetry.take_stop_request():
            self._asked = StopRequest.STOP
        if self.is_main_process:
            (self.run_dir / STOPPED_FILE).unlink(missing_ok=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for s, handler in self._before.items():
            signal.signal(s, handler)
        # between two loops, or as the run ends: asked for too late, or for the next loop; not what kills the process
        if kind is None:
            telemetry.defer_early_signal(self._preempt)
            if StopRequest.STOP in (self._asked, self._last):
                telemetry.carry_stop_request()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._asked = StopRequest.STOP

    def _on_interrupt(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self._pressed is not None and now - self._pressed >= ONE_PRESS:
            ctrl_c.interrupt(number, frame)
        if self._pressed is None:
            self._pressed = now
            self._asked = StopRequest.STOP
            if self.is_main_process:
                with contextlib.suppress(OSError):
                    os.write(2, TOLD)  # not print: the signal may have come within one

    def agreed(self, failed: bool = False) -> StopRequest:
        """What any rank was asked for; FAILED where one has. A collective."""
        self._last = self._vote(failed)
        return self._last

    def _vote(self, failed: bool) -> StopRequest:
        own = self._asked  # a stop stays asked for: taking it back here could lose one that comes in between
        if self.is_main_process and own < StopRequest.STOP:
            own = max(own, self._file())
        if failed:
            own = StopRequest.FAILED
        if world_size() == 1:
            return own
        votes = torch.zeros(len(StopRequest), dtype=torch.int32)
        votes[own] = 1
        return StopRequest(int(sum_over_ranks(votes).nonzero()[-1]))

    def _file(self) -> StopRequest:
        for name, request in ((STOP_FILE, StopRequest.STOP), (SAVE_FILE, StopRequest.SAVE)):
            if (self.run_dir / name).exists():
                # else the job would stop again as soon as it is started again
                (self.run_dir / name).unlink(missing_ok=True)
                if request == StopRequest.STOP:
                    _tell_job_script()
                return request
        return StopRequest.NONE

    def leave(self) -> None:
        """Obeyed: tell whoever looks into the run directory that this was a stop on request."""
        self._asked = self._last = StopRequest.NONE
        if self.is_main_process:
            (self.run_dir / STOPPED_FILE).touch()


def _tell_job_script() -> None:
    """A mark beside the file of the exit code: a job script requeues after a signal, not after the file STOP."""
    file = os.environ.get("EXIT_CODE_FILE")
    if file:
        with contextlib.suppress(OSError):
            Path(f"{file}.{STOP_FILE}").touch()
