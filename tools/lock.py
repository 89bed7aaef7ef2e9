"""constraints.txt: one exact version of every package that requirements-dev.txt installs, directly or not.

python -m tools.lock            # write the versions of this environment (make lock installs them first)
python -m tools.lock --check    # exit code 1 where lock, requirements and this environment disagree (make check)

There are no hashes: which build of torch is right depends on the machine. For the same reason its local version
(+cpu) is left out, and so are the CUDA packages, which each build of torch pins itself.
"""

import argparse
import sys
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

REQUIREMENTS = ("requirements.txt", "requirements-dev.txt")
LOCK = "constraints.txt"
BUILD_TOOLS = ("setuptools", "wheel")  # DeepSpeed is built by them
BY_TORCH = ("nvidia-", "cuda-")
HEAD = "# Every version that `make setup` installs. Written by `make lock`, not by hand; `make check` compares.\n"


def requirements(folder: Path) -> list[Requirement]:
    """What the requirements files ask for, in order."""
    lines = [line for name in REQUIREMENTS for line in (folder / name).read_text().splitlines()]
    texts = (line.split("#")[0].strip() for line in lines)
    return [Requirement(text) for text in texts if text and not text.startswith("-")]


def installed(wanted: Iterable[Requirement]) -> dict[str, str]:
    """Name -> version of all that these requirements need in this environment.

    Raises:
        PackageNotFoundError: one of them is not installed.
    """
    versions: dict[str, str] = {}
    waiting, seen = list(wanted), set()
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        asked = (name, frozenset(requirement.extras))
        if asked in seen or name.startswith(BY_TORCH) or not _applies(requirement, ()):
            continue
        seen.add(asked)
        found = distribution(name)
        versions[name] = found.version.split("+")[0]
        inner = (Requirement(text) for text in found.requires or ())
        waiting += [_without_marker(one) for one in inner if _applies(one, requirement.extras)]
    return dict(sorted(versions.items()))


def locked(folder: Path) -> dict[str, str]:
    """Name -> version of the lock."""
    lines = (folder / LOCK).read_text().splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def against_requirements(lock: Mapping[str, str], wanted: Iterable[Requirement]) -> Iterator[str]:
    """Where lock and requirements files disagree, each with its fix."""
    for requirement in wanted:
        version = lock.get(canonicalize_name(requirement.name))
        if version is None:
            yield f"{requirement} is required and not locked: make lock"
        elif not requirement.specifier.contains(version, prereleases=True):
            yield f"{requirement} is required and {version} is locked: make lock"


def against_environment(lock: Mapping[str, str], here: Mapping[str, str]) -> Iterator[str]:
    """Where lock and environment disagree, each with its fix."""
    for name, version in here.items():
        if name not in lock:
            yield f"{name} {version} is installed and not locked: make lock"
        elif lock[name] != version:
            yield f"{name} {version} is installed and {lock[name]} is locked: make setup"
    for name in lock.keys() - here.keys():
        yield f"{name} is locked, and nothing requires it: make lock"


def main(arguments: list[str] | None = None) -> int:
    """Write or compare; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tools.lock", description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; compare")
    check = parser.parse_args(arguments).check
    folder = Path.cwd()
    wanted = requirements(folder)
    try:
        here = installed([*wanted, *map(Requirement, BUILD_TOOLS)])
    except PackageNotFoundError as error:
        print(f"error: {error.name} is not installed: make {'setup' if check else 'lock'}", file=sys.stderr)
        return 1
    if not check:
        (folder / LOCK).write_text(HEAD + "".join(f"{name}=={version}\n" for name, version in here.items()))
        return 0
    lock = locked(folder)
    found = sorted({*against_requirements(lock, wanted), *against_environment(lock, here)})
    for problem in found:
        print(f"error: {LOCK}: {problem}", file=sys.stderr)
    return int(bool(found))


def _applies(requirement: Requirement, extras: Iterable[str]) -> bool:
    """Whether its marker holds here, with one of the extras or with none."""
    marker = requirement.marker
    return marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras))


def _without_marker(requirement: Requirement) -> Requirement:
    requirement.marker = None
    return requirement


if __name__ == "__main__":
    sys.exit(main())
