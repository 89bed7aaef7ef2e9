"""Break many runs in every way and write the table.

    python -m tests.faults.sweep --tries 20 --output docs/evidence/faults.md
    python -m tests.faults.sweep --tries 20 --only hung

With ``--keep FOLDER`` each try's outcome is kept there and the table is of all that lie there: rows can be run at
different times, or side by side, and a sweep that was ended goes on.
"""

import argparse
import json
import os
import platform
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tests.faults import faults, storage
from tests.faults.faults import Hung, NotHit, Runs, Try
from tests.faults.jobs import EVERY, ROOT, STEPS, TEACH, Jobs, can_mount

HEAD = f"""# Fault-injection tests

A long job is interrupted sooner or later. These tests show that an interrupted run loses few steps and ends with the
same result. Each test starts a real run of `train.py distill`, breaks it once and starts it again with the same
command. `make test-faults` writes this page. `make test` contains a short form.

The runs use `configs/demo` on the tiny backbone, in fp32 on CPUs, with {TEACH} steps of teaching and {STEPS} of
distillation.

| column | meaning |
|---|---|
| Survived | the broken run ended by itself (unless all of it was killed) and left no process; the next launch reached \
the end |
| Survived, if the run must be refused | it ended with exit code 2, named the reason and changed no file |
| Lost, at most | most steps that were logged and then trained again; in brackets the checkpoint interval |
| Wrong | runs that differ from an undisturbed run |

A run differs if any of these holds:

- A number in prompts, optimizer state or metrics is not bit-identical. Timings do not count.
- `metrics.jsonl` lacks a step or has it twice.
- A file is left over.

Summation order changes with the number of ranks and with gradient accumulation. If a run resumes with others, prompts
may therefore differ by {faults.TOLERANCE:g} of the largest number of a tensor. The check of `metrics.jsonl` stays the \
same.

These tests do not cover GPUs. Runs on GPUs are bit-identical only with `deterministic: true`
([fast_path.md](../explanation/fast_path.md#equal-bits-on-a-gpu)).

The moment of a fault is drawn at random with a seed. One in four is during start-up. The others are within a random
step of either stage. If the run ends before the fault, the moment is drawn again.

To save time, a server imports torch, DeepSpeed and the engine once and forks the ranks. torchrun's own agent starts,
watches and ends several ranks. A single rank is `train.py` itself. Process group, gloo, files and exit codes are
those of a user's run.
"""


@dataclass
class Row:
    name: str
    what: str
    one: Callable[[Runs, int], Try]
    every: int = EVERY
    root: bool = False
    tries: list[Try] = field(default_factory=list)
    seconds: float = 0.0
    skipped: str = ""
    calls: int = 0


ROWS = [
    Row("one", "`kill -9` of one rank of two, at a random instant", faults.one_rank_killed),
    Row("all", "`kill -9` of launcher and both ranks, at a random instant", lambda r, i: faults.all_killed(r, i, 2)),
    Row("alone", "`kill -9` of a run of one rank, at a random instant", lambda r, i: faults.all_killed(r, i, 1)),
    Row(
        "saving",
        "`kill -9` of all while a checkpoint is being written, of either stage",
        faults.killed_as_it_saves,
        every=1,
    ),
    Row(
        "truncated",
        "newest checkpoint: a file cut short (3 files x 7 lengths)",
        lambda r, i: storage.newest_damaged(r, i, "truncated"),
    ),
    Row(
        "flipped",
        "newest checkpoint: a bit flipped (3 files x 7 places)",
        lambda r, i: storage.newest_damaged(r, i, "flipped"),
    ),
    Row(
        "missing",
        "newest checkpoint: files, its folder or `latest` missing, or `latest` naming nothing (10 cases, twice)",
        storage.files_missing,
    ),
    Row("damaged", "every checkpoint damaged: refused, exit code 2, nothing changed", storage.all_damaged),
    Row(
        "disk",
        "disk full from a random instant on, then cleared or grown (tmpfs), 2 ranks",
        storage.disk_full,
        root=True,
    ),
    Row(
        "readonly",
        "file system mounted read-only at a random instant, then writable, 2 ranks",
        storage.read_only,
        root=True,
    ),
    Row(
        "permission",
        "write permission of the run directory taken away at a random instant, then given back",
        storage.permission_lost,
    ),
    Row("hung", "one rank of two stopped (SIGSTOP) at a random instant", Hung.outcome),  # type: ignore[arg-type]
    Row(
        "elsewhere",
        "`kill -9` of all 2 ranks; resumed on 1 or 3 ranks, or with another `max_tokens_per_micro_batch`",
        faults.resumed_elsewhere,
    ),
]
CALLS = Row(
    "calls", "`checkpoint.save` killed as it enters each of its system calls in turn", lambda r, i: Try(), every=1
)
ORDER = [*ROWS[:4], CALLS, *ROWS[4:]]
EXACT = {"truncated": 21, "flipped": 21}  # of a sweep: the whole of it


def wanted(row: Row, tries: int) -> int:
    """Where a row is a sweep over places: all of them."""
    return max(tries, EXACT.get(row.name, 0)) if tries >= 20 else tries


def tried(row: Row, runs: Runs, tries: int) -> Iterator[Try]:
    """The tries that a row lacks."""
    missed, waiting = 0, list[Hung]()
    for i in range(len(row.tries), wanted(row, tries)):
        while True:
            try:
                if row.name == "hung":  # its wait is long and idle: others begin in between
                    waiting.append(Hung(runs, i))
                    done = [h for h in waiting if h.job.code is not None] if len(waiting) < 8 else waiting[:1]
                    for h in done:
                        waiting.remove(h)
                        yield h.outcome()
                else:
                    yield row.one(runs, i)
                break
            except NotHit:
                missed += 1
                if missed > 4 * tries + 10:
                    raise RuntimeError(f"{row.name}: {missed} tries came too late") from None
    for h in waiting:
        yield h.outcome()


def line(row: Row) -> str:
    if row.skipped or not row.tries:
        return f"| {row.what} | NOT TRIED: {row.skipped or 'not run yet'} | | | | `--only {row.name}` |"
    good, lost, wrong = (
        sum(t.survived for t in row.tries),
        max(t.lost for t in row.tries),
        sum(bool(t.wrong) for t in row.tries),
    )
    shown = "-" if row.name == "damaged" else f"{lost} ({row.every})"
    return f"| {row.what} | {len(row.tries)} | {good} | {shown} | {wrong} | `--only {row.name}` |"


def sweep(
    place: Path, rows: list[Row], tries: int, seed: int, print_rank0: Callable[[str], None], done: Callable[[Row], None]
) -> None:
    """Do what rows lack; ``done`` is called after each try."""
    mount = can_mount(place)
    if CALLS in rows and not CALLS.tries:
        begin = time.monotonic()
        try:
            CALLS.tries, CALLS.calls = faults.killed_at_every_call(place)
        except PermissionError as error:
            CALLS.skipped = str(error)
        CALLS.seconds = time.monotonic() - begin
        print_rank0(f"{line(CALLS)} {CALLS.seconds:.0f} s")
        done(CALLS)
    rows = [r for r in rows if r is not CALLS and len(r.tries) < wanted(r, tries)]
    if not rows:
        return
    with Jobs(place) as jobs:
        rng = random.Random()
        runs = Runs(jobs, rng)
        for row in rows:
            rng.seed(f"{seed} {row.name} {len(row.tries)}")
            row.skipped = "" if mount or not row.root else "no file system can be mounted here (root is needed)"
            begin, before = time.monotonic(), row.seconds
            for outcome in () if row.skipped else tried(row, runs, tries):
                row.tries.append(outcome)
                row.seconds = before + time.monotonic() - begin
                if not outcome.survived or outcome.wrong or outcome.lost > row.every:
                    print_rank0(f"{row.name} {len(row.tries)}: {outcome}")
                done(row)
            if row.skipped:
                done(row)
            print_rank0(f"{line(row)} {row.seconds:.0f} s")


def read(kept: Path) -> list[Row]:
    """Rows whose outcome lies in a folder, in the table's order."""
    out = []
    for row in ORDER:
        file = kept / f"{row.name}.json"
        if file.exists():
            content = json.loads(file.read_text())
            row.tries = [Try(**t) for t in content.pop("tries")]
            for key, value in content.items():
                setattr(row, key, value)
            out.append(row)
    return out


def table(rows: list[Row], tries: int) -> str:
    cores, total = len(os.sched_getaffinity(0)), sum(r.seconds for r in rows)
    commit = subprocess.run(
        ["git", "log", "-1", "--format=%h"], cwd=ROOT, capture_output=True, text=True
    ).stdout.strip()
    hung = next((r for r in rows if r.name == "hung" and r.tries), None)
    how = ["", f"`--only NAME` in the table means `python -m tests.faults.sweep --tries {tries} --only NAME`.", ""]
    how += [
        "| Fault | Tries | Survived | Lost, at most | Wrong | Command |",
        "|---|---|---|---|---|---|",
        *map(line, rows),
        "",
    ]
    if any(r.calls for r in rows):
        how.append(
            f"**System calls.** A save makes {CALLS.calls} system calls and was killed at each of them. The folder "
            "held no checkpoint, one, as many as are kept, or one of the same step.\n"
        )
    if hung:
        most = 60 * faults.HANG_MINUTES + faults.SHUTDOWN + faults.SLACK
        how.append(
            f"**Hung ranks.** With `hang_minutes: {faults.HANG_MINUTES:g}` every job ended within {most:g} s. "
            f"torchrun waits {faults.SHUTDOWN} s of these for a rank that does not end on SIGTERM. The log named the "
            "rank, host and last collective of the waiting rank. It also named the rank that was waited for.\n"
        )
    how += [
        "**Writes in the background.** A checkpoint is written while the next step trains. A kill during the write "
        "loses the steps since the checkpoint before it. A failed write also loses the step that trained meanwhile.",
        "",
        "**Power failure.** Files are synced before they get their name. The tests do not cover data that a machine "
        "loses from its page cache in a power failure.",
        "",
        f"Commit {commit}, Python {platform.python_version()}, {cores} cores, {total / 60:.0f} minutes.",
    ]
    return HEAD + "\n".join(how) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tries", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="names of rows, comma-separated")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--keep", type=Path)
    a = parser.parse_args()
    only = [n for n in a.only.split(",") if n]
    unknown = set(only) - {r.name for r in ORDER}
    if unknown:
        parser.error(f"--only: no row {', '.join(sorted(unknown))}; there are {', '.join(r.name for r in ORDER)}")
    place = Path(tempfile.mkdtemp(prefix="faults-"))
    kept = a.keep or place / "rows"

    def print_rank0(text: str) -> None:
        print(text, flush=True)

    def done(row: Row) -> None:
        content = {
            "tries": [asdict(t) for t in row.tries],
            "seconds": row.seconds,
            "skipped": row.skipped,
            "calls": row.calls,
        }
        kept.mkdir(parents=True, exist_ok=True)
        (kept / f"{row.name}.json").write_text(json.dumps(content))
        if a.output:
            a.output.write_text(table([r for r in ORDER if r.tries or r.skipped], a.tries))

    read(kept)  # into the rows
    rows = [r for r in ORDER if not only or r.name in only]
    try:
        sweep(place, rows, a.tries, a.seed, print_rank0, done)
        if a.output:
            read(kept)
            a.output.write_text(table(ORDER if not only else [r for r in ORDER if r.tries or r.skipped], a.tries))
    finally:
        shutil.rmtree(place, ignore_errors=True)
    bad = [r.name for r in rows for t in r.tries if not t.survived or t.wrong]
    print_rank0(f"broken: {', '.join(bad)}" if bad else "every run survived, none is wrong")
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
