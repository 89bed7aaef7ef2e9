"""The faults. Each breaks a run once, lets the next launch go on, and says what came of it."""

import contextlib
import random
import re
import shutil
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from engine import checkpoint
from engine.checkpoint import Checkpoint
from tests.faults import traced
from tests.faults.jobs import EVERY, STEPS, TEACH, Disk, Job, Jobs, alive, copy_of, lost_steps, reached, wrong

HANG_MINUTES, SHUTDOWN, SLACK = 0.1, 30, 8  # of a hung rank: what the run is told; seconds that torchrun waits for a rank to end; and the rest
DISK = 240 * 1024  # KiB: a run is refused where less than 200 MB are free
TOLERANCE = 1e-5  # fp32, sums in another order; tests/distributed asks the same of gradients


@dataclass
class Try:
    """survived: it ended as it should, and the next launch reached the end. lost: steps trained again. wrong: what differs from an undisturbed run."""

    survived: bool = True
    lost: int = 0
    wrong: list[str] = field(default_factory=list)
    told: str = ""


class NotHit(Exception):
    """The run had ended before the fault came: no try."""


class Runs:
    """Where the tries run: jobs, an undisturbed run by number of ranks and how long its parts took, and one that was stopped before its end."""

    def __init__(self, jobs: Jobs, rng: random.Random, ranks: tuple[int, ...] = (1, 2), warm: bool = True):
        self.jobs, self.rng, self.n = jobs, rng, 0
        self.whole: dict[int, Path] = {}
        self.start_up: dict[int, float] = {}  # seconds
        self.step: dict[int, float] = {}
        for n in (ranks[0], *ranks) if warm else ranks:  # the first one tokenises: it is run again where its times matter
            folder = jobs.place / f"whole{n}"
            shutil.rmtree(folder, ignore_errors=True)
            begin = time.monotonic()
            job = jobs.start(folder, ranks=n)
            job.until(lambda job=job: "teach 1/" in job.text)  # type: ignore[misc]
            self.start_up[n] = time.monotonic() - begin
            assert job.wait() == 0, job.text[-4000:]
            self.whole[n], self.step[n] = folder, (time.monotonic() - begin - self.start_up[n]) / (TEACH + STEPS)
        self.stopped, self._stopped_text = jobs.place / "stopped", ""
        self.stop()

    def stop(self) -> None:
        """A run of the first number of ranks, stopped with checkpoints of steps 24 and 28."""
        job = self.jobs.start(self.stopped, ranks=min(self.whole))
        job.until(lambda: (self.stopped / "latest").resolve().name == "step_00000028")
        job.kill_all()
        self.stopped_text = job.text.partition("\ndistill 29/")[0] + "\n"  # the checkpoint's own step: what comes after is no loss to the damage

    def new(self) -> Path:
        self.n += 1
        return self.jobs.place / f"run{self.n}"

    def instant(self, job: Job, ranks: int) -> None:
        """Wait for a random instant of a run: one in four in its start-up, else within a random step, teaching or distilling.

        Raises:
            NotHit: it had ended before.
        """
        after = 0 if self.rng.random() < 0.25 else self.rng.randrange(TEACH + STEPS)
        if after:
            job.until(lambda: len(re.findall(r"^(?:teach|distill) \d+/", job.text, re.M)) >= after, 0.01)
        time.sleep(self.rng.uniform(0, self.step[ranks] if after else self.start_up[ranks]))
        if not job.until(lambda: len(job.ranks) == ranks):
            raise NotHit

    def go_on(self, run_dir: Path, broken: Job | str, ranks: int, *arguments: str, tolerance: float = 0.0, told: str = "", every: int = EVERY) -> Try:
        """The next launch of a broken run, and what it leaves."""
        text = broken if isinstance(broken, str) else broken.text
        again = self.jobs.start(run_dir, *arguments, ranks=ranks, every=every)
        code = again.wait()
        if code:
            return Try(False, 0, [], f"the next launch ended with {code}: {again.text[-1500:]}")
        own = ranks if not tolerance and ranks in self.whole else min(self.whole)
        out = Try(True, lost_steps(text, again.text), wrong(run_dir, self.whole[own], tolerance), told)
        if out.wrong:
            out.told = again.text[-1500:]
        shutil.rmtree(run_dir, ignore_errors=True)
        return out


# ---- killed ------------------------------------------------------------------------------------------------------------------------


def one_rank_killed(runs: Runs, i: int) -> Try:
    job = runs.jobs.start(run_dir := runs.new(), ranks=2)
    runs.instant(job, 2)
    ranks = job.ranks
    job.kill([runs.rng.choice(ranks)])
    begin = time.monotonic()
    code = job.wait()
    if code == 0:
        raise NotHit
    if any(alive(pid) for pid in ranks):
        return Try(False, told="a rank lives on without its launcher")
    return runs.go_on(run_dir, job, 2, told=f"ended after {time.monotonic() - begin:.1f} s")


def all_killed(runs: Runs, i: int, ranks: int) -> Try:
    job = runs.jobs.start(run_dir := runs.new(), ranks=ranks)
    runs.instant(job, ranks)
    job.kill_all()
    if job.wait() == 0:
        raise NotHit
    return runs.go_on(run_dir, job, ranks)


def killed_as_it_saves(runs: Runs, i: int, ranks: int = 2) -> Try:
    """At a random moment of the n-th save, n random; counted where a checkpoint was under way."""
    run_dir, wanted, seen = runs.new(), runs.rng.randrange(1, 34), set[str]()
    job = runs.jobs.start(run_dir, ranks=ranks, every=1)

    def saving() -> bool:
        seen.update(f"{p.parent.parent.name}/{p.name}" for f in (run_dir / "teachers", run_dir) for p in f.glob("checkpoints/.step_*"))
        return len(seen) >= wanted

    if not job.until(saving, pause=0.0005):
        raise NotHit
    time.sleep(runs.rng.uniform(0, 0.004))
    job.kill_all()
    job.wait()
    under_way = list(run_dir.rglob(".*.partial")) + [f for f in (run_dir, run_dir / "teachers") if _ahead_of_latest(f)]
    if not under_way or (run_dir / "COMPLETED").exists():
        raise NotHit
    return runs.go_on(run_dir, job, ranks, every=1)


def _ahead_of_latest(folder: Path) -> bool:
    steps = sorted(folder.glob("checkpoints/step_*"))
    return bool(steps) and steps[-1].name != (folder / "latest").resolve().name


def killed_at_every_call(place: Path, stride: int = 1) -> tuple[list[Try], int]:
    """A save, killed as it enters each of its system calls in turn, or each ``stride``-th. -> tries, and the calls that one save makes."""

    def content(value: float) -> Checkpoint:
        tensors = {"a": torch.full((40, 50), value)}
        return Checkpoint(tensors, {"m": torch.full((40, 50), value)}, {"value": value}, {"best": {"best.a": torch.full((40, 50), value)}})

    def same(found: Checkpoint | None, value: float) -> bool:
        if found is None or found.state["value"] != value:
            return False
        return all(t.eq(value).all() for t in (*found.prompts.values(), *found.optimizer.values()))

    out, calls, base = [], 0, place / "base"
    shutil.rmtree(base, ignore_errors=True)
    # nothing there yet; one checkpoint; as many as are kept, so that one is removed; a step that is there already
    for before, step in ((0, 1), (1, 2), (2, 3), (2, 2)):
        if before and step > before:
            checkpoint.save(base, before, content(before), 2)
        base.mkdir(exist_ok=True)
        total = traced.run(lambda step=step: checkpoint.save(copy_of(base, "traced"), step, content(step), 2)) or 0
        total -= traced.run(lambda: copy_of(base, "traced")) or 0
        calls = max(calls, total)
        k, killed = 1 - stride, True
        while killed:
            k += stride
            folder = copy_of(base, "traced")
            killed = traced.run(lambda folder=folder, step=step: checkpoint.save(folder, step, content(step), 2), k) is None
            told: list[str] = []
            found = checkpoint.load(folder, told.append)
            value = found.state["value"] if found else 0
            good = value == 0 == before or (value in (before, step, min(before, step - 1)) and same(found, value))
            bad = [] if good else [f"call {k}: after {before} saves, in that of {step}: found {value}"]
            bad += [f"call {k}: {line}" for line in told if step > before > 0]
            checkpoint.save(folder, step, content(step), 2)
            left = [p for p in folder.rglob("*") if "partial" in p.name]
            if left or not same(checkpoint.load(folder), step):
                bad.append(f"call {k}: the save after it: {left}")
            if killed:
                out.append(Try(not bad, step - int(value), bad))
    return out, calls


# ---- damaged -----------------------------------------------------------------------------------------------------------------------


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
    """Of the newest checkpoint: every set of its files, its folder, the folder's name in ``latest``, ``latest`` itself."""
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
    clear = "error: checkpoint " in job.text and "--fresh=true" in job.text
    touched = [] if _tree(run_dir) == before else ["something was overwritten"]
    shutil.rmtree(run_dir)
    return Try(code == 2 and clear, 0, touched, "" if code == 2 and clear else f"exit code {code}: {job.text[-1500:]}")


def _tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): b"" if p.is_symlink() or p.is_dir() else p.read_bytes() for p in folder.rglob("*")}


# ---- a place that fails ------------------------------------------------------------------------------------------------------------


def _ended(job: Job, run_dir: Path, reasons: tuple[str, ...], damage: list[str]) -> Try | None:
    """What is wrong with how a run ended that could not write; None if nothing is."""
    code = job.wait()
    if code == 0:
        raise NotHit
    if not any(reason in line and str(run_dir) in line for line in job.text.splitlines() for reason in reasons):
        return Try(False, told=f"exit code {code} without a line that says why and where: {job.text[:6000]} … {job.text[-2000:]}")
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
    """Every folder and file of the run loses its write bit; then gets it back. A root's job gives up its right to pass over such bits."""
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


# ---- hung, and elsewhere -----------------------------------------------------------------------------------------------------------


class Hung:
    """One rank of two is stopped (SIGSTOP), for good: the job ends in time, and says who waited where. Two halves: the wait is long and idle."""

    def __init__(self, runs: Runs, i: int):
        self.runs, self.run_dir = runs, runs.new()
        self.job = runs.jobs.start(self.run_dir, f"--hang_minutes={HANG_MINUTES}", ranks=2)
        runs.instant(self.job, 2)
        self.ranks = self.job.ranks
        self.job.kill([runs.rng.choice(self.ranks)], signal.SIGSTOP)
        self.begin = time.monotonic()

    def outcome(self) -> Try:
        limit = 60 * HANG_MINUTES + SHUTDOWN + SLACK
        try:
            code = self.job.wait(max(self.begin + limit - time.monotonic(), 0.1))
        except TimeoutError as error:
            return Try(False, told=str(error))
        if code == 0:
            raise NotHit
        if any(alive(pid) for pid in self.ranks):
            return Try(False, told="a rank lives on without its launcher")
        text = self.job.text
        if not all(word in text for word in ("fault", "rank ", socket.gethostname(), "last: ")):
            return Try(False, told=f"rank, host or last collective are not named: {text[-2500:]}")
        if "made no progress" in text and "waited for: rank " not in text:
            return Try(False, told=f"the rank that was waited for is not named: {text[-2500:]}")
        return self.runs.go_on(self.run_dir, self.job, 2, told="watch" if "made no progress" in text else "time-out")


def resumed_elsewhere(runs: Runs, i: int) -> Try:
    """Killed on 2 ranks at a random instant; goes on on 1 or 3, or on 2 with another accumulation."""
    job = runs.jobs.start(run_dir := runs.new(), ranks=2)
    if not job.until(lambda: "teach 4/" in job.text):
        raise NotHit
    time.sleep(runs.rng.uniform(0, STEPS * runs.step[2]))
    job.kill_all()
    if job.wait() == 0 or reached(job.text)[1] == 0:
        raise NotHit
    ranks, budget = [(1, 4096), (3, 4096), (2, 300), (2, 8192), (1, 700), (3, 500)][i % 6]
    return runs.go_on(run_dir, job, ranks, f"--token_budget={budget}", tolerance=TOLERANCE)
