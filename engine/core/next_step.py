"""What to type next: said by a mode that was started alone, not by one that a study runs, which goes on by itself."""

import contextlib
from collections.abc import Iterator

_hinted = True


def next_step(command: str) -> str:
    """The end of a mode's last line: ``; next: COMMAND``, or nothing within ``without_next_steps``."""
    return f"; next: {command}" if _hinted else ""


@contextlib.contextmanager
def without_next_steps() -> Iterator[None]:
    global _hinted
    before, _hinted = _hinted, False
    try:
        yield
    finally:
        _hinted = before
