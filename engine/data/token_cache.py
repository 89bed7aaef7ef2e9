"""What is made once and read by all ranks, before the process group starts. Rank 0 makes it, again where it is
damaged; the others wait.

A split's rows are a folder of two files: the Arrow table, and its checksum with the name that the folder was given.
"""

import contextlib
import errno
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from engine.core import UserError, new_partial, remove, sha256_of

ROWS, CHECKSUM = "rows.arrow", "checksum.json"
POLL_SECONDS = 0.2
REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS)

Damage = Callable[[Path], str]  # what is wrong with a file or folder that is there, or nothing


def build_once(
    final: Path, rank: int, what: str, build: Callable[[], None], damage: Damage, print_rank0: Callable[[str], None]
) -> None:
    """Have rank 0 make a file or folder of the cache that is missing or damaged; others wait for it, or its failure.

    Args:
        build: makes ``final``. damage: reads it; every rank looks for itself. say: is told what is made again, and why.

    Raises:
        UserError: rank 0 failed, or the cache's folder cannot be written to.
    """
    if rank != 0:
        return _await(final, rank, what, damage)
    if final.exists():
        problem = damage(final)
        if not problem:
            return
        print_rank0(f"WARNING {what}: {final} {problem}; it is made again")
    failed = _marker(final)
    try:
        if final.exists():
            _set_aside(final)
        final.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        failed.unlink(missing_ok=True)
        build()
    except OSError as error:
        _mark(failed)
        if error.errno in REFUSED and _concerns(error.filename, final.parent):
            fix = "name another folder (--data.cache=FOLDER), or have it opened"
            raise UserError(f"data.cache: {final.parent} cannot be written to ({error.strerror}); {fix}") from None
        raise
    except BaseException:
        _mark(failed)
        raise


def _await(final: Path, rank: int, what: str, damage: Damage) -> None:
    seen: tuple[int, int] | None = None
    while True:
        version = _version(final)
        if version != seen and version is not None:  # read once, and again when rank 0 has replaced it
            problem = damage(final)
            if not problem:
                return
            told = f"rank {rank}: {what}: {final} {problem}; waiting for rank 0 to make it again"
            print(told, file=sys.stderr, flush=True)
        seen = version
        # a marker of another launch says nothing about this one, whichever rank came first
        failed = _marker(final)
        if failed.exists() and failed.read_text() == launch_id():
            raise UserError(f"{what}: rank 0 could not prepare it; its message says why")
        time.sleep(POLL_SECONDS)


def launch_id() -> str:
    """The same on all ranks of one launch, and different for the next."""
    names = (
        "TORCHELASTIC_RUN_ID",
        "TORCHELASTIC_RESTART_COUNT",
        "MASTER_PORT",
        "SLURM_JOB_ID",
        "SLURM_RESTART_COUNT",
        "SLURM_STEP_ID",
    )
    return " ".join(os.environ.get(name, "-") for name in names)


def note_checksum(folder: Path, name: str) -> None:
    """Beside a split's rows, before the folder gets its ``name``."""
    file = folder / CHECKSUM
    file.touch(0o600)
    file.write_text(json.dumps({"of": name, ROWS: sha256_of(folder / ROWS)}))


def damage_of_rows(folder: Path) -> str:
    """What is wrong with a split's folder, or nothing. Reads all of its rows, once."""
    try:
        told = json.loads((folder / CHECKSUM).read_text())
        if told["of"] != folder.name:
            return "holds other rows than its name says"
        return "" if sha256_of(folder / ROWS) == told[ROWS] else f"is damaged or cut (the checksum of {ROWS} differs)"
    except FileNotFoundError as error:
        return f"is not whole ({Path(error.filename).name} is missing)"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    except (ValueError, KeyError, TypeError):
        return f"is damaged ({CHECKSUM} cannot be read)"


def _set_aside(final: Path) -> None:
    """Free a name. Who has the damaged content open keeps it."""
    aside = new_partial(final, folder=True)
    final.rename(aside / final.name)
    remove(aside)


def _version(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


def _marker(final: Path) -> Path:
    return final.with_suffix(".failed")


def _mark(failed: Path) -> None:
    with contextlib.suppress(OSError):  # where it cannot be written, the launcher ends the ranks that wait
        failed.write_text(launch_id())


def _concerns(filename: object, folder: Path) -> bool:
    """Whether an error's file lies in ``folder``, or is one of the folders above it."""
    if not isinstance(filename, str | os.PathLike):
        return False
    path = Path(filename).absolute()
    return path.is_relative_to(folder.absolute()) or folder.absolute().is_relative_to(path)
