"""One line before the first library that takes seconds to load, so that nobody looks at an empty terminal."""

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TextIO

SLOW = ("torch", "transformers", "datasets", "deepspeed")


class _Announcer(MetaPathFinder):
    """Finds no module. Speaks once, when the first slow library is looked for, and then goes."""

    def __init__(self, stream: TextIO):
        self.stream = stream

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname in SLOW:
            sys.meta_path.remove(self)
            print("loading libraries …", file=self.stream, flush=True)
        return None


def announce_loading(stream: TextIO) -> None:
    """Print "loading libraries …" to ``stream`` when this process first imports one of ``SLOW``.

    A command that is refused before that, or that needs none of them, prints nothing. Nor does a process that has
    loaded one already.
    """
    if not any(name in sys.modules for name in SLOW):
        sys.meta_path.insert(0, _Announcer(stream))
