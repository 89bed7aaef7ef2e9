"""Files in the repository that a tool writes from the code, and the check that they are up to date."""

import argparse
import sys
from collections.abc import Callable, Iterable
from pathlib import Path


def outdated_files(names: Iterable[str], file_of: Callable[[str], Path], text_of: Callable[[str], str]) -> list[str]:
    """The names whose files are missing or hold something else than their text."""
    return [name for name in names if not file_of(name).is_file() or file_of(name).read_text() != text_of(name)]


def write_or_check(
    module: str,
    stale: Iterable[str],
    file_of: Callable[[str], Path],
    text_of: Callable[[str], str],
    arguments: list[str] | None,
) -> int:
    """The command ``python -m MODULE [--check]``. Returns its exit code: 1 where --check finds a file out of date.

    Args:
        stale: names whose files are out of date. arguments: of the command line; None: this process's.
    """
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description="Write files from the code.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 where a file is out of date")
    check, found = parser.parse_args(arguments).check, 0
    for name in stale:
        file, found = file_of(name), found + 1
        if check:
            print(f"{file}: out of date; run: python -m {module}", file=sys.stderr)
        else:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text_of(name))
            print(f"written {file}")
    return int(check and found > 0)
