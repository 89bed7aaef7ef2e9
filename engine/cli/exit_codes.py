"""How a command ends: 0 done, 1 a fault, 2 the user's error, 75 start me again. 3: done, and the answer is no: a
benchmark is slower than the one it was compared with, or a plan's configuration does not fit the machine.
"""

import contextlib
import os
import sys
import time
import traceback
from collections.abc import Sequence
from typing import NoReturn

from engine import distributed, telemetry

USER_ERROR, FAULT, START_AGAIN = 2, 1, telemetry.START_AGAIN
SLOWER = DOES_NOT_FIT = 3
LET_RANK_0_SPEAK = 5  # seconds


def fail(problems: Sequence[str]) -> NoReturn:
    """End with the user's errors, a line each."""
    started = _group_started()
    # every rank finds the same: rank 0 speaks first, before a launcher ends all for one rank's exit
    if _rank() > 0 and not started:
        time.sleep(LET_RANK_0_SPEAK)
    prefix = f"error (rank {_rank()})" if _rank() else "error"
    for problem in problems:
        print(f"{prefix}: {problem}", file=sys.stderr, flush=True)
    sys.stdout.flush()
    _write_code(USER_ERROR)
    if started:
        os._exit(USER_ERROR)
    raise SystemExit(USER_ERROR)


def fault(error: Exception) -> NoReturn:
    """Frames and the kind of the error; its message only from our own code and libraries that do not quote data."""
    frames = ""
    for frame in traceback.extract_tb(error.__traceback__):
        frames += f"  {frame.filename}:{frame.lineno} in {frame.name}\n"
    quotable = isinstance(error, RuntimeError | OSError | MemoryError | AssertionError)
    message = f": {error}" if quotable else " (message withheld: it may quote data)"
    print(
        f"fault on rank {_rank()}: {type(error).__name__}{message}\n"
        f"  on {os.uname().nodename}, last: {distributed.last_progress()}\n{frames}",
        file=sys.stderr,
        flush=True,
    )
    sys.stdout.flush()
    _write_code(FAULT)
    os._exit(FAULT)  # other ranks may sit in a collective that this one will never join


def ended(end: Exception, code: int) -> NoReturn:
    """All is written, and every rank is here for the same reason."""
    if _rank() == 0:
        print(end, flush=True)
    _write_code(code)
    # no rank gets through before all have come: a launcher may end the others for one that has left
    leave_group(code)
    raise SystemExit(code)


def leave_group(code: int) -> None:
    """Take the process group down, where there is one; of several ranks the process ends here."""
    if not _group_started():
        return
    import torch.distributed as dist

    dist.barrier()
    several = dist.get_world_size() > 1
    dist.destroy_process_group()
    # all is written: what libraries' threads do while a process is taken down must not make a failure of it
    if several:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _rank() -> int:
    return distributed.launcher_rank(os.environ)


def _write_code(code: int) -> None:
    """Rank 0's exit code for a job script: torchrun answers 1 whatever its ranks answered, srun 137 for a rank that
    it ended itself.
    """
    file = os.environ.get("EXIT_CODE_FILE")
    if file and _rank() == 0:
        with contextlib.suppress(OSError), open(file, "w") as stream:
            stream.write(f"{code}\n")


def _group_started() -> bool:
    if "torch" not in sys.modules:
        return False
    import torch.distributed as dist

    return dist.is_available() and dist.is_initialized()


EXIT_CODES = {
    0: "done, or the run was already complete",
    FAULT: "a fault: the message names the rank and the place",
    USER_ERROR: "the configuration, the data or the command is wrong; nothing was started",
    SLOWER: "`benchmark --compare`: a step is slower than before, beyond the spread; `plan`: the job does not fit",
    START_AGAIN: "stopped on request (a signal, Ctrl-C or a file `STOP`) after a checkpoint; start it again to go on",
    130: "Ctrl-C before training starts, or for the second time",
}
"""Exit code -> what it means, for the reference of the command line."""
