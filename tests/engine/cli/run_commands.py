"""Run many commands in one process in which heavy libraries cannot be imported and every write is noted.

    python -m tests.engine.cli.run_commands < COMMANDS.json

Reads a list of lists of arguments; writes, for each, exit code, lines of stderr and what was written.
"""

import contextlib
import io
import json
import os
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from typing import Any

HEAVY = (
    "torch",
    "transformers",
    "deepspeed",
    "datasets",
    "accelerate",
    "fire",
    "matplotlib",
    "nltk",
    "numpy",
    "pandas",
    "pyarrow",
    "pydantic",
    "safetensors",
    "scipy",
    "sklearn",
    "tokenizers",
)
CHANGES = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.symlink", "os.link", "os.truncate", "shutil.rmtree")


class NoHeavyLibrary(MetaPathFinder):
    """Refuses to find heavy libraries."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> None:
        if fullname.partition(".")[0] in HEAVY:
            raise AssertionError(f"{fullname} is imported")


def main() -> None:
    """Run the commands of stdin."""
    written: list[str] = []

    def note(event: str, arguments: tuple[Any, ...]) -> None:
        if event in CHANGES:
            written.append(f"{event} {arguments[0]}")
        if event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR):
            written.append(f"open {arguments[0]}")

    sys.meta_path.insert(0, NoHeavyLibrary())
    os._exit = sys.exit  # type: ignore[assignment]
    import train

    sys.addaudithook(note)
    found = []
    for command in json.load(sys.stdin):
        written.clear()
        found.append({**_run(train, command), "written": list(written)})
    assert not [name for name in HEAVY if name in sys.modules]
    print(json.dumps(found))


def _run(train: Any, command: Sequence[str]) -> dict[str, Any]:
    told, code = io.StringIO(), 0
    with contextlib.redirect_stderr(told), contextlib.redirect_stdout(io.StringIO()):
        try:
            train.main(list(command))
        except SystemExit as end:
            code = end.code
    return {"code": code, "told": told.getvalue().splitlines()}


if __name__ == "__main__":
    main()
