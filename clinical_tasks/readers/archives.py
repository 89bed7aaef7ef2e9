"""Released archives (zip, tar, tar.gz) read in place. Nothing is unpacked onto the disk, and no member's name is ever
used to write.

Refused, with an error that says so: names that lead out of the archive, links and devices, encrypted members, archives
that expand beyond the limits below, damaged ones. A zip is read member by member; a tar.gz by `gzip_seek`; an archive
inside an archive (as ChemProt is released) is held in memory, compressed as it is.
"""

from __future__ import annotations

import abc
import contextlib
import io
import tarfile
import threading
import zipfile
import zlib
from collections.abc import Collection, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

from clinical_tasks.readers.gzip_seek import SeekableGzip, TooLarge
from clinical_tasks.schema import ReadError, read_error

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz")
MAX_MEMBERS = 1_000_000
MAX_RATIO = 100  # expanded to compressed; notes reach 3 to 20
FREE_BYTES = 100 * 2**20  # up to which the ratio is not asked
MAX_INNER = 256 * 2**20  # bytes of an archive inside an archive
MAX_DEPTH = 2
_PIECE = 1 << 20
_UNPACK = "unpack it yourself and put its files into the task's folder"


def is_archive_name(name: str) -> bool:
    """Whether a file of this name is read as an archive."""
    return name.lower().endswith(SUFFIXES)


class Archive(abc.ABC):
    """An open archive: its members by name. `path` is for messages."""

    def __init__(self, path: Path):
        self.path = path
        self.names: Collection[str] = ()
        self.refused: dict[str, str] = {}
        self._lock = threading.Lock()

    @abc.abstractmethod
    def open(self, name: str) -> BinaryIO:
        """A member's bytes, as a stream. Raises `ReadError`."""

    def _check_name(self, name: str) -> str:
        """A member's name in the one form, `a/b`."""
        parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".")]
        if name.startswith(("/", "\\")) or ".." in parts or (parts and parts[0].endswith(":")) or "\0" in name:
            raise read_error(
                self.path, "has a member whose path leads out of the archive", fix=f"do not trust it; {_UNPACK}"
            )
        return "/".join(parts)

    def _check_count(self, count: int) -> None:
        if count > MAX_MEMBERS:
            raise read_error(self.path, f"holds more than {MAX_MEMBERS:,} members", fix=_UNPACK)


class _Zip(Archive):
    def __init__(self, path: Path, file: BinaryIO, size: int):
        super().__init__(path)
        self._zip = zipfile.ZipFile(file)
        self._members: dict[str, zipfile.ZipInfo] = {}
        self._check_count(len(self._zip.infolist()))
        expanded = 0
        for info in self._zip.infolist():
            name = self._check_name(info.filename)
            if info.is_dir() or not name:
                continue
            expanded += info.file_size
            kind = (info.external_attr >> 16) & 0o170000
            if info.flag_bits & 1:
                self.refused[name] = "is encrypted"
            elif kind not in (0, 0o100000):
                self.refused[name] = "is a link or no ordinary file"
            self._members[name] = info
        if expanded > max(FREE_BYTES, MAX_RATIO * size):
            raise TooLarge
        self.names = self._members.keys()

    def open(self, name: str) -> BinaryIO:
        # Never more than the directory says, which has been held against the limit.
        return self._zip.open(self._members[name])  # type: ignore[return-value]


class _Tar(Archive):
    def __init__(self, path: Path, file: BinaryIO, size: int):
        super().__init__(path)
        self._file: Any = (
            SeekableGzip(file, max(FREE_BYTES, MAX_RATIO * size)) if path.name.lower().endswith(("gz",)) else file
        )
        self._places: dict[str, tuple[int, int]] = {}
        with tarfile.open(fileobj=self._file, mode="r:", ignore_zeros=False) as tar:
            while (info := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]  # a place and a size are all that is kept of each
                name = self._check_name(info.name)
                if info.isdir() or not name:
                    continue
                if not info.isreg() or info.issparse():
                    self.refused[name] = "is a link or no ordinary file"
                self._places[name] = (info.offset_data, info.size)
                self._check_count(len(self._places))
        if isinstance(self._file, SeekableGzip):
            self._file.drain()
        self.names = self._places.keys()

    def open(self, name: str) -> BinaryIO:
        return io.BufferedReader(_Slice(self._file, self._lock, *self._places[name]))


class _Slice(io.RawIOBase):
    """A stretch of a file that several readers share."""

    def __init__(self, file: BinaryIO, lock: threading.Lock, start: int, size: int):
        super().__init__()
        self._shared, self._lock, self._at, self._end = file, lock, start, start + size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        wanted = min(len(buffer), self._end - self._at)
        with self._lock:
            self._shared.seek(self._at)
            data = self._shared.read(wanted)
        if len(data) < wanted:
            raise EOFError("the archive ends early")
        buffer[:wanted] = data
        self._at += wanted
        return wanted


@contextlib.contextmanager
def refusing_damage(path: Path) -> Iterator[None]:
    """Whatever an archive's library raises, as a `ReadError` that quotes nothing."""
    try:
        yield
    except ReadError:
        raise
    except TooLarge:
        reason = f"expands to more than {MAX_RATIO} times its size (and {FREE_BYTES >> 20} MB)"
        raise read_error(path, reason, fix=f"do not trust it; {_UNPACK}") from None
    except NotImplementedError:
        raise read_error(
            path, "uses an unsupported compression", fix=f"pack it as an ordinary zip or tar.gz, or {_UNPACK}"
        ) from None
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, OSError, RuntimeError, ValueError) as error:
        raise read_error(
            path, f"is damaged or not an archive of its kind ({type(error).__name__})", fix="fetch the release again"
        ) from None


def open_archive(path: Path) -> Archive:
    """The archive at a path, which may itself lead through one. Kept open for the next call."""
    if path.is_file():
        state = path.stat()
        return _from_disk(path, state.st_mtime_ns, state.st_size)
    found = locate(path)
    if found is None:
        raise read_error(path, "no such archive", fix="check the path")
    state = _on_disk(path).stat()
    return _from_inside(path, place=found, mtime=state.st_mtime_ns, size=state.st_size)


@lru_cache(maxsize=16)
def _from_disk(path: Path, mtime: int, size: int) -> Archive:
    try:
        file = path.open("rb")
    except OSError as error:
        raise read_error(path, f"cannot be opened ({error.strerror})", fix="check its permissions") from None
    return _opened(path, file, size)


@lru_cache(maxsize=4)
def _from_inside(path: Path, place: tuple[Path, str], mtime: int, size: int) -> Archive:
    data = b""
    with refusing_damage(path), open_member(*place) as stream:
        while piece := stream.read(_PIECE):
            data += piece
            if len(data) > MAX_INNER:
                raise read_error(
                    path, f"has more than {MAX_INNER >> 20} MB inside another archive", fix="unpack the outer archive"
                )
    return _opened(path, io.BytesIO(data), len(data))


def _opened(path: Path, file: BinaryIO, size: int) -> Archive:
    with refusing_damage(path):
        if path.name.lower().endswith(".zip"):
            return _Zip(path, file, size)
        return _Tar(path, file, size)


def open_member(archive: Path, name: str) -> BinaryIO:
    """A member's bytes. Raises `ReadError` for what is refused."""
    inside = open_archive(archive)
    path = archive / name
    if name not in inside.names:
        raise read_error(path, "no such file in the archive", fix="check the name")
    if name in inside.refused:
        raise read_error(
            path,
            inside.refused[name],
            fix="unpack the archive yourself, with its password if it has one, and put the files in its place",
        )
    with refusing_damage(path):
        return inside.open(name)


def locate(path: Path) -> tuple[Path, str] | None:
    """(innermost archive, name inside it) of a path that leads through one, or None. An existing plain file leads
    through none.
    """
    if not any(is_archive_name(part) for part in path.parts[:-1]) or path.exists():
        return None
    for start in range(1, len(path.parts)):
        if is_archive_name(path.parts[start - 1]) and Path(*path.parts[:start]).is_file():
            return _innermost(Path(*path.parts[:start]), path.parts[start:])
    return None


def _innermost(archive: Path, rest: tuple[str, ...]) -> tuple[Path, str]:
    """The last of the archives that lie one inside the other on the way of `rest`, and the name inside that one."""
    for inner in range(1, len(rest)):
        if is_archive_name(rest[inner - 1]) and "/".join(rest[:inner]) in open_archive(archive).names:
            return _innermost(archive.joinpath(*rest[:inner]), rest[inner:])
    return archive, "/".join(rest)


def _on_disk(path: Path) -> Path:
    return next(parent for parent in path.parents if parent.is_file())


def members(archive: Path, depth: int = 1) -> Iterator[str]:
    """The names of all files inside, those of archives inside it too, as paths below it; what desktops add to an
    archive is left out.
    """
    for name in sorted(open_archive(archive).names):
        last = name.rsplit("/", 1)[-1]
        if name.startswith("__MACOSX/") or last.startswith("._") or last == ".DS_Store":
            continue
        yield name
        if is_archive_name(name) and depth < MAX_DEPTH and name not in open_archive(archive).refused:
            yield from (f"{name}/{inner}" for inner in members(archive / name, depth + 1))
