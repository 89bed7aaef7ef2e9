"""SHA-256 of released files, remembered for as long as the files stay as they are, so that a start need not read them.

The index lies in the cache's folder: for each file's path its size, inode and times, and its digest. A time of
modification can be set back, a time of change (ctime) cannot. A file that was changed a moment ago is hashed each time:
another change within a tick of the file system's clock would go unseen, as in git's index.
"""

import contextlib
import hashlib
import io
import json
import time
from collections.abc import Iterable
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from clinical_tasks.readers import open_bytes
from engine.core import new_partial, publish, remove

INDEX = "file_digests.json"
SETTLED = 2.0  # seconds


class FileState(NamedTuple):
    """What changes whenever a file's content does. Of a file inside an archive: the archive's."""

    size: int
    mtime_ns: int
    inode: int
    ctime_ns: int

    def is_settled(self) -> bool:
        return time.time() - max(self.mtime_ns, self.ctime_ns) / 1e9 >= SETTLED


class FileDigests:
    """Digests of this process's files, those of the index in ``cache`` at first.

    Only what ``save`` is called after reaches the disk. An index that is missing, damaged or cannot be read costs time
    alone.
    """

    def __init__(self, cache: Path):
        self._index = cache / INDEX
        self._here: dict[str, tuple[FileState, str]] = {}  # made by this process
        self._settled: dict[str, tuple[FileState, str]] = {}  # those of them to be remembered

    @cached_property
    def _found(self) -> dict[str, tuple[FileState, str]]:
        return _load(self._index)

    def known(self, path: Path) -> str | None:
        """The digest of a file that has not changed since it was made; None where it must be read."""
        name, state = _state_of(path)
        for digests in (self._here, self._found):
            remembered, digest = digests.get(name, (None, ""))
            if remembered == state:
                return digest
        return None

    def of(self, path: Path) -> str:
        """The digest of a file, which is read if it must be.

        Raises:
            ReadError: it cannot be read. OSError: it is not there.
        """
        known = self.known(path)
        if known is not None:
            return known
        name, before = _state_of(path)
        with open_bytes(path) as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()  # type: ignore[arg-type]
        self._note(path, name, before, digest)
        return digest

    def watch(self, path: Path, stream: BinaryIO) -> BinaryIO:
        """The stream of a file, which is hashed while somebody reads it from end to end (``watching_files``)."""
        if self.known(path) is not None:
            return stream
        name, before = _state_of(path)
        raw = _HashedStream(stream, lambda digest: self._note(path, name, before, digest))
        return io.BufferedReader(raw)  # type: ignore[return-value]

    def save(self) -> None:
        """Write what was learnt into the index, beside what others have written there meanwhile."""
        if not self._settled:
            return
        found = {**_load(self._index), **self._settled}
        entries = {name: [*state, digest] for name, (state, digest) in found.items() if _is_there(name, self._settled)}
        with contextlib.suppress(OSError):
            self._index.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            partial = new_partial(self._index)
            try:
                partial.write_text(json.dumps({"sha256": _checksum(entries), "files": entries}))
                publish(partial, self._index)
            finally:
                remove(partial)
        self._settled.clear()

    def _note(self, path: Path, name: str, before: FileState, digest: str) -> None:
        self._here[name] = before, digest
        if before.is_settled() and _state_of(path)[1] == before:  # else it changed while it was hashed
            self._settled[name] = before, digest


class _HashedStream(io.RawIOBase):
    """Passes a stream on and tells its digest once its end was read."""

    def __init__(self, stream: BinaryIO, tell: Any):
        super().__init__()
        self._stream, self._tell, self._digest = stream, tell, hashlib.sha256()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._stream.read(len(buffer))
        buffer[: len(data)] = data
        self._digest.update(data)
        if not data and self._tell is not None:
            self._tell(self._digest.hexdigest())
            self._tell = None
        return len(data)

    def close(self) -> None:
        self._stream.close()
        super().close()


def _state_of(path: Path) -> tuple[str, FileState]:
    """The name that a file has in the index, and its state. Raises `OSError` for a file that is not there."""
    disk = path
    if not path.exists():  # a path that leads through an archive
        disk = next((parent for parent in path.parents if parent.is_file()), path)
    found = disk.stat()
    state = FileState(found.st_size, found.st_mtime_ns, found.st_ino, found.st_ctime_ns)
    return str(_resolved(disk.parent) / path.relative_to(disk.parent)), state


@lru_cache(maxsize=4096)
def _resolved(folder: Path) -> Path:
    return folder.resolve()


def _is_there(name: str, written: Iterable[str]) -> bool:
    """Whether an entry is worth its place: files come and go, and the index would only grow."""
    path = Path(name)
    return name in written or path.exists() or any(parent.is_file() for parent in path.parents)


def _load(index: Path) -> dict[str, tuple[FileState, str]]:
    try:
        content = json.loads(index.read_text())
        if content["sha256"] != _checksum(content["files"]):
            return {}
        return {name: (FileState(*state), digest) for name, (*state, digest) in content["files"].items()}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _checksum(entries: dict[str, list[Any]]) -> str:
    return hashlib.sha256(json.dumps(entries, sort_keys=True).encode()).hexdigest()
