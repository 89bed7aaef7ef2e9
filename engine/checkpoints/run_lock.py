"""One writer a run directory. Two jobs can meet there: submitted twice, or requeued while an old rank lives on behind a
broken network.

The newest to open the directory owns it; the older notices before its next write, and ends. Of one SLURM job the later
start is the newer, whatever the order in which they come.
"""

import contextlib
import json
import os
import socket
import uuid
from pathlib import Path
from typing import Any

OWNER = "owner.json"


class RunLockLost(RuntimeError):
    """Another job has opened this run directory since; nothing more may be written."""


class RunLock:
    """Rank 0's right to write into a run directory. Claims it.

    Raises:
        RunLockLost: a later start of this very job, requeued since, has opened it. OSError: it cannot be written;
            says which file and why.
    """

    def __init__(self, run_dir: Path):
        self.file = run_dir / OWNER
        self.token = uuid.uuid4().hex
        job = {}
        for key, variable in (("slurm_job", "SLURM_JOB_ID"), ("restart", "SLURM_RESTART_COUNT")):
            if variable in os.environ:
                job[key] = os.environ[variable]
        owner = self._owner()
        same_job = bool(job) and owner.get("slurm_job") == job.get("slurm_job")
        if same_job and int(owner.get("restart", 0)) > int(job.get("restart", 0)):
            raise RunLockLost(
                f"{run_dir}: opened by a later start of job {job['slurm_job']} ({_shown(owner)}); this "
                "process writes nothing"
            )
        partial = self.file.with_name(f".{OWNER}.{self.token}")
        try:
            partial.write_text(
                json.dumps({"token": self.token, "host": socket.gethostname(), "pid": os.getpid(), **job}) + "\n"
            )
            partial.replace(self.file)
        except OSError as error:  # a write knows no file name
            with contextlib.suppress(OSError):
                partial.unlink()
            raise OSError(
                error.errno,
                f"{error.strerror}; nothing was changed. Start again once it can be written",
                str(self.file),
            ) from None

    def check(self) -> None:
        """
        Raises:
            RunLockLost: somebody else claimed it, or took the claim away.
        """
        owner = self._owner()
        if owner.get("token") != self.token:
            raise RunLockLost(
                f"{self.file.parent}: opened by another job since ({_shown(owner)}); this process stops writing"
            )

    def _owner(self) -> dict[str, Any]:
        try:
            found = json.loads(self.file.read_text())
        except (OSError, ValueError):
            return {}
        if not isinstance(found, dict):
            return {}
        return found


def _shown(owner: dict[str, Any]) -> str:
    return ", ".join(f"{k} {v}" for k, v in owner.items() if k != "token") or "an unreadable owner"
