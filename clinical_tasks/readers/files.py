"""Decoding a released file without ever quoting it."""

from __future__ import annotations

from pathlib import Path

from clinical_tasks.errors import read_error


def read_text(path: Path, *, skip_bom: bool = True) -> str:
    """The file's characters with its line ends as they are: offsets and line numbers depend on them.

    `skip_bom=False` keeps a leading byte order mark as a character, as standoff tools count it.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise read_error(path, f"cannot be opened ({error.strerror})", fix="check the path and its permissions") from None
    try:
        return data.decode("utf-8-sig" if skip_bom else "utf-8")
    except UnicodeDecodeError as error:
        # `from None`: the original holds the file's bytes.
        position = error.start + (3 if skip_bom and data.startswith(b"\xef\xbb\xbf") else 0)
        raise read_error(path, f"not UTF-8 at byte {position}", fix="convert the file to UTF-8") from None
