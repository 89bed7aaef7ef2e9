"""Draw mutants, try them, and print what survived: python -m tools.mutation --count 200 --seed 0

The map of lines to tests comes first, from one run of the whole suite: `make mutants` does both.
"""

import argparse
import json
import os
import random
import shlex
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from engine.core import protect

protect()  # offline, before any library is imported

import datasets  # noqa: E402, F401
import deepspeed  # noqa: E402, F401
import hypothesis  # noqa: E402, F401
import peft  # noqa: E402, F401
import transformers  # noqa: E402, F401

from tools.mutation.operators import Mutant, mutants_of  # noqa: E402
from tools.mutation.reach import Reach  # noqa: E402
from tools.mutation.trial import Outcome, Trial, copy_project  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = (
    "prompt_modules",
    "backbones",
    "engine/training",
    "clinical_tasks/text_pairs",
    "clinical_tasks/scoring",
)
LEFT_OUT = ("tests/slurm", "tests/gpu", "tests/faults", "tests/launch_scripts", "tests/docs/test_site")


def drawn(packages: Sequence[str], count: int, seed: int) -> list[Mutant]:
    """``count`` mutants, of each package as many, always the same for a seed and a state of the source."""
    found = []
    for number, package in enumerate(packages):
        files = sorted((ROOT / package).rglob("*.py"))
        every = [mutant for file in files for mutant in mutants_of(ROOT, str(file.relative_to(ROOT)))]
        share = count // len(packages) + (number < count % len(packages))
        found += random.Random(f"{seed} {package}").sample(every, min(share, len(every)))
    return found


def chosen(mutant: Mutant, reach: Reach, budget: float) -> tuple[list[str], float, int]:
    """The test files for a mutant, as many as take no longer than ``budget`` seconds; how long they take; how many are
    left out.
    """
    tests: list[str] = []
    expected, left_out = 0.0, 0
    for file in reach.files_of(mutant.path, mutant.line):
        if file.startswith(LEFT_OUT):
            continue
        seconds = reach.seconds[file]
        if tests and expected + seconds > budget:
            left_out += 1
            continue
        tests.append(file)
        expected += seconds
    return tests, expected, left_out


def tried(mutants: Sequence[Mutant], reach: Reach, options: argparse.Namespace) -> Iterator[tuple[Mutant, Outcome]]:
    """Every mutant with its outcome, ``options.workers`` of them at a time."""
    free = copies(options.workers)
    running: list[tuple[Mutant, int, Trial, Path]] = []
    try:
        for mutant in mutants:
            tests, expected, left_out = chosen(mutant, reach, options.budget)
            if not tests:
                yield mutant, Outcome("unreached", "", 0.0)
                continue
            while not free:
                yield from _ended(running, free)
            copy = free.pop()
            # a change that makes a loop endless is caught, too
            trial = Trial(mutant, copy, tests=[*shlex.split(options.pytest), *tests], limit=60 + 4 * expected)
            running.append((mutant, left_out, trial, copy))
        while running:
            yield from _ended(running, free)
    finally:
        for _, _, trial, _ in running:
            trial.end()


def _ended(running: list[tuple[Mutant, int, Trial, Path]], free: list[Path]) -> Iterator[tuple[Mutant, Outcome]]:
    """Wait a moment; the outcomes of what has ended, whose copies are free again."""
    time.sleep(0.05)
    for entry in list(running):
        mutant, left_out, trial, copy = entry
        outcome = trial.done()
        if outcome:
            running.remove(entry)
            free.append(copy)
            if outcome.verdict == "survived" and left_out:
                outcome = outcome._replace(by=f"({left_out} slower test files were left out: --budget)")
            yield mutant, outcome


def copies(count: int) -> list[Path]:
    """So many copies of the project, made anew."""
    found = [ROOT / f".cache/mutation/copy{number}" for number in range(count)]
    for copy in found:
        copy_project(ROOT, copy)
    return found


def failing_alone(tests: Iterable[str]) -> str:
    """Of the tests that caught something, the first that also fails where nothing is changed; empty: none does."""
    (copy,) = copies(1)
    found = sorted({test for test in tests if "::" in test})
    if not found:
        return ""
    trial = Trial(None, copy, tests=found, limit=3600)
    while not (outcome := trial.done()):
        time.sleep(0.05)
    return outcome.by


def described(mutant: Mutant) -> str:
    before = (ROOT / mutant.path).read_bytes()[mutant.start : mutant.end].decode()
    return f"{mutant.path}:{mutant.line} {mutant.kind}: {' '.join(before.split())[:60]} -> {mutant.new[:60]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200, help="how many mutants are drawn")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--packages", default=",".join(PACKAGES))
    parser.add_argument("--only", default="", help="a file with outcomes: try again what survived there")
    parser.add_argument("--pytest", default="", help="options for pytest")
    parser.add_argument("--budget", type=float, default=120.0, help="seconds of tests that one mutant is given")
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--output", default=".cache/mutation/outcomes.jsonl")
    options = parser.parse_args()
    mutants = drawn(options.packages.split(","), options.count, options.seed)
    if options.only:
        lines = [json.loads(line) for line in Path(options.only).read_text().splitlines()]
        survived = [line["mutant"] for line in lines if line["verdict"] != "caught"]
        mutants = [mutant for mutant in mutants if list(mutant) in survived]
    verdicts: Counter[str] = Counter()
    caught_by: set[str] = set()
    with open(options.output, "w") as stream:
        for mutant, outcome in tried(mutants, Reach(ROOT), options):
            verdicts[outcome.verdict] += 1
            if outcome.verdict == "caught":
                caught_by.add(outcome.by)
            stream.write(json.dumps({"mutant": list(mutant), **outcome._asdict()}) + "\n")
            stream.flush()
            seconds = f"{outcome.seconds:.0f} s"
            print(f"{outcome.verdict} ({seconds}) {described(mutant)} {outcome.by}".rstrip(), flush=True)
    total = sum(verdicts.values())
    wrong = failing_alone(caught_by)
    if wrong:
        raise SystemExit(f"error: {wrong} fails without a change too: nothing that it caught counts")
    print(f"caught {verdicts['caught']} of {total} mutants ({100 * verdicts['caught'] / max(total, 1):.1f} %)")


if __name__ == "__main__":
    main()
