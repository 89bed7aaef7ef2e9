"""Files and folders that are there whole or as they were: a kill, a full disk or power cut cuts plain writes short."""

import contextlib
import os
import time
from pathlib import Path

PARTIAL = ".partial"
ABANDONED = 24 * 3600.0  # seconds without a change after which a partial file is taken for that of a dead writer


def write_atomic(path: Path, text: str) -> None:
    """Replace a file's text in one go; it is its owner's alone.

    Raises:
        OSError: it cannot be written; says which file and why, and the old one is untouched.
    """
    partial = path.with_name(f".{path.name}{PARTIAL}")
    try:
        partial.write_text(text)
        partial.chmod(0o600)
        publish(partial, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise OSError(
            error.errno, f"{error.strerror}; nothing of it was changed, start again once it can be written", str(path)
        ) from None


def new_partial(final: Path, folder: bool = False) -> Path:
    """An empty file (0600) or folder (0700) beside ``final``, for one writer of it, who gives it to ``publish``.

    Its name is drawn: several hosts may write one file, and in a container every start has the same process id. What
    dead writers of ``final`` have left is removed.

    Raises:
        OSError: the folder of ``final`` cannot be written to.
    """
    import tempfile  # a command that only prints does without it

    for left in final.parent.glob(f"*{PARTIAL}"):
        if left.name.lstrip(".").startswith(f"{final.name.lstrip('.')}.") and _abandoned(left):
            remove(left)
    prefix = f".{final.name.lstrip('.')}."
    if folder:
        return Path(tempfile.mkdtemp(PARTIAL, prefix, final.parent))
    handle, name = tempfile.mkstemp(PARTIAL, prefix, final.parent)
    os.close(handle)
    return Path(name)


def publish(partial: Path, final: Path) -> None:
    """Give what is written its name, once it is on the disk. Of a folder: the files in it, not what lies deeper.

    Raises:
        OSError: it cannot be; ``final`` is as it was, or replaced as a whole.
    """
    if partial.is_dir():
        for file in partial.iterdir():
            sync(file)
    sync(partial)
    partial.replace(final)
    sync(final.parent)


def sync(path: Path) -> None:
    """Wait until a file's content, or a folder's list of names, is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove(path: Path) -> None:
    """A file or folder, as far as it can be removed."""
    import shutil

    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


def nearest_existing(path: Path) -> Path:
    """``path`` itself or what is nearest above it of what this user can see."""
    whole = path.absolute()
    return next(p for p in (whole, *whole.parents) if os.path.exists(p))  # Path.exists raises PermissionError


def is_creatable(folder: Path) -> bool:
    """Whether a folder can be made and written to, or is there and can be. Writes nothing."""
    there = nearest_existing(folder)
    return there.is_dir() and os.access(there, os.W_OK | os.X_OK)


def _abandoned(partial: Path) -> bool:
    """Whether nothing of a file or folder has changed for so long."""
    try:
        changed = [partial.lstat().st_mtime]
        if partial.is_dir():
            changed += [file.lstat().st_mtime for file in partial.iterdir()]
    except OSError:  # its writer is done with it
        return False
    return time.time() - max(changed) > ABANDONED
