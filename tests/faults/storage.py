"""Faults of what a run is stored on: checkpoints that are damaged or missing, a disk that is full, read-only or
closed to the run.
"""

import contextlib
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from engine.checkpoints import checkpoint
from tests.faults.faults import NotHit, Runs, Try
from tests.faults.jobs import Disk, Job, copy_of

DISK = 240 * 1024  # KiB: a run is refused where less than 200 MB are free


# ---- damaged
# --------------------------------------------------------------------------------------------------------------


def truncated(path: Path, where: float) -> None:
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.truncate(min(int(where * size), size - 1))


def flipped(path: Path, where: float) -> None:
    data = bytearray(path.read_bytes())
    data[min(int(where * len(data)), len(data) - 1)] ^= 1 << int(where * 1000) % 8
    path.write_bytes(bytes(data))


def missing(path: Path, _: float) -> None:
    path.unlink()


DAMAGES: dict[str, Callable[[Path, float], None]] = {"truncated": truncated, "flipped": flipped, "missing": missing}
FILES = ("prompts.safetensors", "optimizer.safetensors", "state.json")
WHERE = (0.0, 0.0005, 0.01, 0.3, 0.6, 0.9, 1.0)


def newest_damaged(runs: Runs, i: int, how: str) -> Try:
    """Each file of the newest checkpoint, at seven places of it."""
    run_dir = copy_of(runs.stopped, f"run{i}-{how}")
    DAMAGES[how](run_dir / "latest" / FILES[i % 3], WHERE[i // 3 % 7])
    out = runs.go_on(run_dir, runs.stopped_text, min(runs.whole))
    return out


def files_missing(runs: Runs, i: int) -> Try:
    """Of the newest checkpoint: every set of its files, its folder, the folder's name in ``latest``, ``latest``
    itself.
    """
    run_dir = copy_of(runs.stopped, f"run{i}-missing")
    latest = run_dir / "latest"
    case = i % 10
    if case < 7:
        for bit, name in enumerate(FILES):
            if case + 1 >> bit & 1:
                (latest / name).unlink()
    elif case == 7:
        shutil.rmtree(latest.resolve())
    elif case == 8:
        latest.unlink()
        latest.symlink_to("checkpoints/step_00000099")
    else:
        latest.unlink()
    return runs.go_on(run_dir, runs.stopped_text, min(runs.whole))


def all_damaged(runs: Runs, i: int) -> Try:
    """Every checkpoint, each in a random way: refused with exit code 2, and nothing is overwritten."""
    run_dir = copy_of(runs.stopped, f"run{i}-all")
    for folder in sorted((run_dir / "checkpoints").glob("step_*")):
        how = runs.rng.choice([*DAMAGES, "folder"])
        if how == "folder":
            shutil.rmtree(folder)
        else:
            DAMAGES[how](folder / runs.rng.choice(FILES), runs.rng.random())
    before = _tree(run_dir)
    job = runs.jobs.start(run_dir, ranks=min(runs.whole))
    code = job.wait()
    clear = "error: checkpoint " in job.text and "--overwrite=true" in job.text
    touched = [] if _tree(run_dir) == before else ["something was overwritten"]
    shutil.rmtree(run_dir)
    return Try(code == 2 and clear, 0, touched, "" if code == 2 and clear else f"exit code {code}: {job.text[-1500:]}")


def _tree(folder: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(folder)): b"" if p.is_symlink() or p.is_dir() else p.read_bytes() for p in folder.rglob("*")
    }


# ---- a place that fails
# ------------------------------------------------------------------------------------------------------------


def _ended(job: Job, run_dir: Path, reasons: tuple[str, ...], damage: list[str]) -> Try | None:
    """What is wrong with how a run ended that could not write; None if nothing is."""
    code = job.wait()
    if code == 0:
        raise NotHit
    if not any(reason in line and str(run_dir) in line for line in job.text.splitlines() for reason in reasons):
        return Try(
            False,
            told=f"exit code {code} without a line that says why and where: {job.text[:6000]} … {job.text[-2000:]}",
        )
    return Try(False, told=f"a checkpoint is not whole: {damage}") if damage else None


def _damage(run_dir: Path) -> list[str]:
    """Of the latest checkpoints."""
    told: list[str] = []
    for folder in (run_dir, run_dir / "teachers"):
        checkpoint.load(folder, told.append)
    return told


def disk_full(runs: Runs, i: int, ranks: int = 2) -> Try:
    """Filled to the last byte at a random instant, and kept full; then grown, or cleared."""
    disk = Disk(runs.jobs.place / "disk")
    run_dir, filler = disk.folder / "run", disk.folder / "filler"
    disk.mount(DISK)
    try:
        job = runs.jobs.start(run_dir, ranks=ranks)
        runs.instant(job, ranks)
        with filler.open("ab", buffering=0) as file:
            while job.code is None:
                for size in (1 << 22, 4096):
                    with contextlib.suppress(OSError):
                        while file.write(bytes(size)):
                            pass
                time.sleep(0.001)
        job.wait()
        problem = _ended(job, run_dir, ("No space left", "are free there"), _damage(run_dir))
        if problem:
            return problem
        if i % 2:
            disk.remount(f"size={2 * DISK}k")
        else:
            filler.unlink()
        return runs.go_on(run_dir, job, ranks)
    finally:
        disk.unmount()


def read_only(runs: Runs, i: int, ranks: int = 2) -> Try:
    """The file system is mounted read-only under a running job; then writable again."""
    disk = Disk(runs.jobs.place / "disk")
    run_dir = disk.folder / "run"
    disk.mount(DISK)
    try:
        job = runs.jobs.start(run_dir, ranks=ranks)
        runs.instant(job, ranks)
        if not job.until(lambda: disk.remount("ro")):
            raise NotHit
        job.wait()
        problem = _ended(job, run_dir, ("Read-only file system", "cannot be written to"), _damage(run_dir))
        if problem:
            return problem
        disk.remount("rw")
        return runs.go_on(run_dir, job, ranks)
    finally:
        disk.unmount()


def permission_lost(runs: Runs, i: int, ranks: int = 1) -> Try:
    """Every folder and file of the run loses its write bit; then gets it back. A root's job gives up its right to
    pass over such bits.
    """
    run_dir = runs.new()
    job = runs.jobs.start(run_dir, ranks=ranks, bound=True)
    runs.instant(job, ranks)
    if not job.until(run_dir.exists):
        raise NotHit
    while job.code is None:  # what is made in between too
        _writable(run_dir, False)
        time.sleep(0.005)
    _writable(run_dir, False)
    problem = _ended(job, run_dir, ("Permission denied", "cannot be written to"), _damage(run_dir))
    if problem:
        return problem
    _writable(run_dir, True)
    return runs.go_on(run_dir, job, ranks)


def _writable(run_dir: Path, yes: bool) -> None:
    for path in (run_dir, *run_dir.rglob("*")):
        if not path.is_symlink():
            try:
                path.chmod((0o700 if path.is_dir() else 0o600) if yes else (0o500 if path.is_dir() else 0o400))
            except FileNotFoundError:
                continue
