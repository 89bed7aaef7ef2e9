"""What the tests reach, by line and by branch, and which functions none calls: python -m tools.reached REPORT.json

REPORT.json: what `coverage json` wrote after `make test COVERAGE=all`. Functions that CI cannot call, as those of a
GPU, stand in tools/unreached.toml with the reason. With --check the exit code is 1 where no test calls another function
or where one calls a listed function. That holds for a machine on which no test is skipped but for want of a GPU.
"""

import argparse
import json
import sys
import tomllib
from collections import defaultdict
from collections.abc import Iterable, Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

LISTED = Path(__file__).with_name("unreached.toml")
COUNTS = ("covered_lines", "num_statements", "covered_branches", "num_branches")
NOT_MEASURED = ("tests/", "build/")


def share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "-"


def table(files: Mapping[str, Any]) -> list[str]:
    """Lines and branches that ran, by top folder; the engine's by package."""
    sums: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0, 0])
    for path, file in files.items():
        parts = path.split("/")
        name = "/".join(parts[:2]) if parts[0] == "engine" and len(parts) > 2 else parts[0]
        for group in (name, "all"):
            for place, count in enumerate(COUNTS):
                sums[group][place] += file["summary"][count]
    lines = [f"{'':24} {'lines':>8} {'':>9} {'branches':>8}"]
    for name in [*sorted(set(sums) - {"all"}), "all"]:
        ran, total, taken, branches = sums[name]
        lines.append(f"{name:24} {total:8,} {share(ran, total):>9} {branches:8,} {share(taken, branches):>9}")
    return lines


def unreached(files: Mapping[str, Any]) -> list[str]:
    """``path::function`` of every function of which no line ran."""
    found = []
    for path, file in sorted(files.items()):
        for name, function in file["functions"].items():
            counts = function["summary"]
            if name and counts["num_statements"] and not counts["covered_lines"]:
                found.append(f"{path}::{name}")
    return found


def missing(found: Iterable[str], listed: Iterable[str]) -> list[str]:
    """The functions that no pattern of the list names."""
    return [name for name in found if not any(fnmatch(name, pattern) for pattern in listed)]


def problems(found: list[str], listed: Mapping[str, str]) -> list[str]:
    """What the list of unreached functions does not say, and what it says wrongly."""
    out = [f"{name}: no test calls it. Fix: test it or delete it" for name in missing(found, listed)]
    for pattern in listed:
        if not any(fnmatch(name, pattern) for name in found):
            out.append(f"{LISTED.name}: {pattern}: tests do call it, or it is gone. Fix: delete the entry")
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=Path)
    parser.add_argument("--check", action="store_true", help="exit code 1 where the list of exceptions is wrong")
    options = parser.parse_args()
    files = json.loads(options.report.read_text())["files"]
    files = {path: file for path, file in files.items() if not path.startswith(NOT_MEASURED)}
    found = unreached(files)
    listed = tomllib.loads(LISTED.read_text())
    wrong = problems(found, listed)
    print("\n".join(table(files)))
    explained = len(found) - len(missing(found, listed))
    print(f"No test calls {len(found)} functions. {LISTED.name} says why for {explained} of them.")
    if options.check:
        for line in wrong:
            print(f"error: {line}")
    sys.exit(bool(wrong) and options.check)


if __name__ == "__main__":
    main()
