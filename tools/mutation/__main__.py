"""Draw mutants, try them, and print what survived: python -m tools.mutation --count 200 --seed 0

The map of lines to tests comes first, from one run of the whole suite: `make mutants` does both.
"""

import argparse
import json
import os
import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence
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


def chosen(mutant: Mutant, reach: Reach, budget: float) -> tuple[list[str], float]:
    """The test files for a mutant, as many as take no longer than ``budget`` seconds, and how long they take."""
    tests: list[str] = []
    expected = 0.0
    for file in reach.files_of(mutant.path, mutant.line):
        seconds = reach.seconds[file]
        if not file.startswith(LEFT_OUT) and (not tests or expected + seconds <= budget):
            tests.append(file)
            expected += seconds
    return tests, expected


def tried(mutants: Sequence[Mutant], reach: Reach, options: argparse.Namespace) -> Iterator[tuple[Mutant, Outcome]]:
    """Every mutant with its outcome, ``options.workers`` of them at a time."""
    waiting = list(mutants)
    free = [ROOT / f".cache/mutation/copy{n}" for n in range(options.workers)]
    for copy in free:
        copy_project(ROOT, copy)
    running: list[tuple[Trial, Path]] = []
    while waiting or running:
        while waiting and free:
            mutant = waiting.pop(0)
            tests, expected = chosen(mutant, reach, options.budget)
            if not tests:
                yield mutant, Outcome("unreached", "", 0.0)
                continue
            copy = free.pop()
            # a change that makes a loop endless is caught, too
            running.append((Trial(mutant, copy, [*options.pytest.split(), *tests], 60 + 4 * expected), copy))
        for trial, copy in list(running):
            outcome = trial.done()
            if outcome:
                running.remove((trial, copy))
                free.append(copy)
                yield trial.mutant, outcome
        time.sleep(0.05)


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
    with open(options.output, "w") as stream:
        for mutant, outcome in tried(mutants, Reach(ROOT), options):
            verdicts[outcome.verdict] += 1
            stream.write(json.dumps({"mutant": list(mutant), **outcome._asdict()}) + "\n")
            stream.flush()
            seconds = f"{outcome.seconds:.0f} s"
            print(f"{outcome.verdict} ({seconds}) {described(mutant)} {outcome.by}".rstrip(), flush=True)
    total = sum(verdicts.values())
    print(f"caught {verdicts['caught']} of {total} mutants ({100 * verdicts['caught'] / max(total, 1):.1f} %)")


if __name__ == "__main__":
    main()
