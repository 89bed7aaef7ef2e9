"""Small files that are there whole or as they were: a kill, or a full disk, in the middle of a plain write would leave them cut short."""

import contextlib
from pathlib import Path


def write_whole(path: Path, text: str) -> None:
    """Replace a file's text in one go; it is its owner's alone.

    Raises:
        OSError: it cannot be written; says which file and why, and the old one is untouched.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_text(text)
        partial.chmod(0o600)
        partial.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise OSError(error.errno, f"{error.strerror}; nothing of it was changed, start again once it can be written", str(path)) from None
