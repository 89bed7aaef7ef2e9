"""One writer a run directory. Two jobs can meet there: submitted twice, or requeued while an old rank lives on behind a broken network.

The newest to open the directory owns it; the older notices before its next write, and ends.
"""

import json
import os
import socket
import uuid
from pathlib import Path

OWNER = "owner.json"


class LostRunDirectory(RuntimeError):
    """Another job has opened this run directory since; nothing more may be written."""


class Fence:
    """Rank 0's right to write into a run directory. Claims it."""

    def __init__(self, run_dir: Path):
        self.file = run_dir / OWNER
        self.token = uuid.uuid4().hex
        job = {k: os.environ[v] for k, v in (("slurm_job", "SLURM_JOB_ID"), ("restart", "SLURM_RESTART_COUNT")) if v in os.environ}
        partial = self.file.with_name(f".{OWNER}.{self.token}")
        partial.write_text(json.dumps({"token": self.token, "host": socket.gethostname(), "pid": os.getpid(), **job}) + "\n")
        partial.replace(self.file)

    def check(self) -> None:
        """
        Raises:
            LostRunDirectory: somebody else claimed it, or took the claim away.
        """
        try:
            owner = json.loads(self.file.read_text())
        except (OSError, ValueError):
            owner = {}
        if owner.get("token") != self.token:
            who = ", ".join(f"{k} {v}" for k, v in owner.items() if k != "token") or "nobody that can be read"
            raise LostRunDirectory(f"{self.file.parent}: opened by another job since ({who}); this one writes no more")
