"""What the tests reach, by line and by branch, and which functions none calls: python -m tools.reached REPORT.json

REPORT.json: what `coverage json` wrote after `make test COVERAGE=1`. Functions that cannot run here, such as those of a
GPU, stand in tools/unreached.toml with the reason. Exit code 1 where another function is called by no test, or where a
listed one is.
"""

import json
import sys
import tomllib
from collections import defaultdict
from collections.abc import Mapping
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


def problems(found: list[str], listed: Mapping[str, str]) -> list[str]:
    """What the list of unreached functions does not say, and what it says wrongly."""
    out = []
    for name in found:
        if not any(fnmatch(name, pattern) for pattern in listed):
            out.append(f"{name}: no test calls it. Fix: test it or delete it")
    for pattern in listed:
        if not any(fnmatch(name, pattern) for name in found):
            out.append(f"{LISTED.name}: {pattern}: tests do call it, or it is gone. Fix: delete the entry")
    return out


def main() -> None:
    files = json.loads(Path(sys.argv[1]).read_text())["files"]
    files = {path: file for path, file in files.items() if not path.startswith(NOT_MEASURED)}
    listed = tomllib.loads(LISTED.read_text())
    found = unreached(files)
    print("\n".join(table(files)))
    print(f"functions that no test calls: {len(found)}, of which {LISTED.name} explains {len(listed)} patterns")
    for name in found:
        print(f"  {name}")
    wrong = problems(found, listed)
    for line in wrong:
        print(f"error: {line}", file=sys.stderr)
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
