"""The faults. Each breaks a run once, lets the next launch go on, and says what came of it."""

import random
import re
import shutil
import signal
import socket
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch

from engine.checkpoints import checkpoint
from engine.checkpoints.checkpoint import Checkpoint
from tests.faults import traced
from tests.faults.jobs import EVERY, STEPS, TEACH, Job, Jobs, copy_of, lost_steps, reached, wrong
from tools.process_tree import is_running

HANG_MINUTES, SHUTDOWN, SLACK = (
    0.1,
    30,
    8,
)  # of a hung rank: what the run is told; seconds that torchrun waits for a rank to end; and the rest
TOLERANCE = 1e-5  # fp32, sums in another order; tests/distributed asks the same of gradients


@dataclass
class Try:
    """survived: it ended as it should, and the next launch reached the end. lost: steps trained again. wrong: what
    differs from an undisturbed run.
    """

    survived: bool = True
    lost: int = 0
    wrong: list[str] = field(default_factory=list)
    told: str = ""


class NotHit(Exception):
    """The run had ended before the fault came: no try."""


class Runs:
    """Where the tries run: jobs, an undisturbed run by number of ranks and how long its parts took, and one that
    was stopped before its end.
    """

    def __init__(self, jobs: Jobs, rng: random.Random, ranks: tuple[int, ...] = (1, 2), warm: bool = True):
        self.jobs, self.rng, self.n = jobs, rng, 0
        self.whole: dict[int, Path] = {}
        self.start_up: dict[int, float] = {}  # seconds
        self.step: dict[int, float] = {}
        for n in (
            (ranks[0], *ranks) if warm else ranks
        ):  # the first one tokenises: it is run again where its times matter
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
        latest, oldest = self.stopped / "latest", self.stopped / "checkpoints/step_00000020"
        # the checkpoint before the last two is removed once `latest` points at the last
        job.until(lambda: latest.resolve().name == "step_00000028" and not oldest.exists())
        job.kill_all()
        self.stopped_text = (
            job.text.partition("\ndistill 29/")[0] + "\n"
        )  # the checkpoint's own step: what comes after is no loss to the damage

    def new(self) -> Path:
        self.n += 1
        return self.jobs.place / f"run{self.n}"

    def instant(self, job: Job, ranks: int) -> None:
        """Wait for a random instant of a run: one in four in its start-up, else within a random step, teaching or
        distilling.

        Raises:
            NotHit: it had ended before.
        """
        after = 0 if self.rng.random() < 0.25 else self.rng.randrange(TEACH + STEPS)
        if after:
            job.until(lambda: len(re.findall(r"^(?:teach|distill) \d+/", job.text, re.M)) >= after, 0.01)
        time.sleep(self.rng.uniform(0, self.step[ranks] if after else self.start_up[ranks]))
        if not job.until(lambda: len(job.ranks) == ranks):
            raise NotHit

    def go_on(
        self,
        run_dir: Path,
        broken: Job | str,
        ranks: int,
        *arguments: str,
        tolerance: float = 0.0,
        told: str = "",
        every: int = EVERY,
    ) -> Try:
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


# ---- killed
# --------------------------------------------------------------------------------------------------------------


def one_rank_killed(runs: Runs, i: int) -> Try:
    job = runs.jobs.start(run_dir := runs.new(), ranks=2)
    runs.instant(job, 2)
    ranks = job.ranks
    job.kill([runs.rng.choice(ranks)])
    begin = time.monotonic()
    code = job.wait()
    if code == 0:
        raise NotHit
    if any(is_running(pid) for pid in ranks):
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
        seen.update(
            f"{p.parent.parent.name}/{p.name}"
            for f in (run_dir / "teachers", run_dir)
            for p in f.glob("checkpoints/.step_*")
        )
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
    """A save, killed as it enters each of its system calls in turn, or each ``stride``-th. -> tries, and the calls
    that one save makes.
    """

    def content(value: float) -> Checkpoint:
        tensors = {"a": torch.full((40, 50), value)}
        return Checkpoint(
            tensors,
            {"m": torch.full((40, 50), value)},
            {"value": value},
            {"best": {"best.a": torch.full((40, 50), value)}},
        )

    def same(found: Checkpoint | None, value: float) -> bool:
        if found is None or found.state["value"] != value:
            return False
        return all(t.eq(value).all() for t in (*found.prompts.values(), *found.optimizer.values()))

    out, calls, base = [], 0, place / "base"
    shutil.rmtree(base, ignore_errors=True)
    # nothing there yet; one checkpoint; as many as are kept, so that one is removed; a step that already exists
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
            killed = (
                traced.run(lambda folder=folder, step=step: checkpoint.save(folder, step, content(step), 2), k) is None
            )
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


# ---- hung, and elsewhere
# -----------------------------------------------------------------------------------------------------------


class Hung:
    """One rank of two is stopped (SIGSTOP), for good: the job ends in time, and says who waited where. Two halves:
    the wait is long and idle.
    """

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
        if any(is_running(pid) for pid in self.ranks):
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
    return runs.go_on(run_dir, job, ranks, f"--max_tokens_per_micro_batch={budget}", tolerance=TOLERANCE)
