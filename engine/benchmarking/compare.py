"""An earlier benchmark.json: whether the same was measured there, on the like.

    python -m engine.benchmarking.compare OLD.json NEW.json

What a configuration decides is compared without torch, so that a wrong command ends before libraries are loaded.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine import core
from engine.core import UserError

if TYPE_CHECKING:
    from engine.benchmarking.verdict import Verdict

HARDWARE = ("cpu", "gpu", "cores", "threads")
SINCE = {"deterministic": False}  # keys that a benchmark.json of this release may lack
DECIDE_ROWS = ("mode", "backbone", "invented", "seed", "data.", "distill.sources", "distill.without", "adapt.")
DECIDE_WEIGHTS = ("backbone", "dummy_weights")
TYPED = "--compare: "  # in front of a file's name, where the flag names it
REMEDY, OF_FILES = "measure with the same command, or set --compare_anyway=true", "measure both with the same command"


class Old:
    """An earlier measurement.

    Args:
        origin: in front of the file's name in messages. remedy: at their end.
    """

    def __init__(self, path: Path, content: dict[str, Any], origin: str = TYPED, remedy: str = REMEDY):
        self.path, self.content, self.origin, self.remedy = path, content, origin, remedy

    def setting_problems(self, identities: Sequence[dict[str, Any]], anyway: bool) -> list[str]:
        """What differs as far as the configurations tell, ``anyway`` or not: a case that is not there.

        Args:
            identities: of the cases; without ``weights`` and ``rows`` where nobody has read them.
        """
        there = {case["label"]: case["identity"] for case in self.content["cases"]}
        held = ", ".join(map(repr, there))
        absent, out = [], []
        for identity in identities:
            if identity["case"] not in there:
                absent.append(f"{self.origin}{self.path}: has no case {identity['case']!r}; it has {held}")
            else:
                out += _differences(there[identity["case"]], identity)
        return absent or self._told(out, anyway)

    def check(
        self, identities: Sequence[dict[str, Any]], world: int, anyway: bool, here: dict[str, Any] | None = None
    ) -> None:
        """Whether the same was measured, on the like.

        Raises:
            UserError: what differs, all of it, unless ``anyway``; a case that is not there.
        """
        problems = self.setting_problems(identities, anyway)
        found = []
        if self.content["world_size"] != world:
            found.append(f"ranks: {self.content['world_size']} there, {world} here")
        then, now = self.content["machine"], core.machine_info() if here is None else here
        for key in HARDWARE:
            if then.get(key) != now.get(key):
                found.append(f"machine: {key}: {then.get(key)} there, {now.get(key)} here")
        problems += self._told(found, anyway)
        if problems:
            raise UserError(problems)

    def check_nodes(self, nodes: int, anyway: bool) -> None:
        found = self.content["machine"].get("nodes")
        if found != nodes and not anyway:
            raise UserError(self._told([f"nodes: {found} there, {nodes} here"], anyway))

    def _told(self, found: Sequence[str], anyway: bool) -> list[str]:
        if anyway:
            return []
        return [f"{self.origin}{self.path}: {problem}; {self.remedy}" for problem in dict.fromkeys(found)]

    def verdict(self, new: dict[str, Any]) -> "Verdict":
        from engine.benchmarking.verdict import verdict_of  # numpy

        return verdict_of(self.content, new)


def read_old(path: Path, origin: str = TYPED, remedy: str = REMEDY) -> Old:
    """
    Raises:
        UserError: no benchmark.json that can be compared with.
    """
    if not path.exists():
        raise UserError(f"{origin}{path} does not exist; name a benchmark.json")
    try:
        content = json.loads(path.read_text())
        whole = bool(content["cases"] and content["world_size"] and content["machine"] and content["versions"])
        whole = whole and all(map(_is_whole, content["cases"]))
    except (OSError, ValueError, KeyError, TypeError):
        whole = False
    if not whole:
        raise UserError(
            f"{origin}{path} is not a benchmark.json of this release: its steps or its configuration are "
            "missing; measure it again"
        )
    return Old(path, content, origin, remedy)


def _is_whole(case: dict[str, Any]) -> bool:
    steps = case["steps"]
    return bool(steps["seconds"] and steps["probe"] and case["identity"]["config"] and case["label"] is not None)


def _differences(there: dict[str, Any], here: dict[str, Any]) -> list[str]:
    """A line for each; a hash only where no key explains it.

    Args:
        there, here: identities. What one of them does not know is not compared.
    """
    found = [(key, there.get(key), here[key]) for key in ("mode", "backbone")]
    if "invented" in there and "invented" in here:
        found.append(("invented", there["invented"] or "own data", here["invented"] or "own data"))
    old, new = _settings(there), _settings(here)
    found += [(key, repr(old.get(key)), repr(new.get(key))) for key in sorted(old.keys() | new.keys())]
    found = [(key, then, now) for key, then, now in found if then != now]
    keys = [key for key, _, _ in found]
    for hashed, decide in (("weights", DECIDE_WEIGHTS), ("rows", DECIDE_ROWS)):
        if hashed in here and there.get(hashed) != here[hashed] and not any(key.startswith(decide) for key in keys):
            found.append((hashed, there.get(hashed), here[hashed]))
    return [f"{key}: {then} there, {now} here" for key, then, now in found]


def _settings(identity: dict[str, Any]) -> dict[str, Any]:
    """As JSON has them. A key that came after a measurement had its default's effect there."""
    return SINCE | json.loads(json.dumps(identity["config"]))  # type: ignore[no-any-return]


def _read(files: Sequence[Path]) -> list[Old]:
    """
    Raises:
        UserError: what is wrong with any of them.
    """
    out, problems = [], []
    for file in files:
        try:
            out.append(read_old(file, origin="", remedy=OF_FILES))
        except UserError as error:
            problems += error.problems
    if problems:
        raise UserError(list(dict.fromkeys(problems)))
    return out


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("old", type=Path, metavar="OLD.json")
    parser.add_argument("new", type=Path, metavar="NEW.json")
    asked = parser.parse_args()
    try:
        old, other = _read([asked.old, asked.new])
        new = other.content
        old.check([c["identity"] for c in new["cases"]], new["world_size"], False, new["machine"])
        old.check_nodes(new["machine"].get("nodes"), False)
    except UserError as error:
        for problem in error.problems:
            print(f"error: {problem}", file=sys.stderr)
        raise SystemExit(2) from None
    from engine.benchmarking.verdict import verdict_table  # numpy

    verdict = old.verdict(new)
    print("\n".join(verdict_table(verdict)))
    raise SystemExit(3 if verdict.slower else 0)


if __name__ == "__main__":
    main()
