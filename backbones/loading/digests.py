"""Which weights a folder holds, to the bit: every byte is hashed, once for as long as the files stay as they are.

A digest is remembered under all that changes when a file does: its real path, size, inode and times. A time of
modification can be set back, a time of change (ctime) cannot. What is remembered lies in ``WEIGHT_DIGESTS_DIR``, a file
for each digest, readable by its user alone. Where there is no such folder, or it cannot be written to, the weights are
hashed each time. No torch here: a wrong command ends before it is imported.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import re
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from backbones.card import BackboneCard, BackboneError

FOLDER = "WEIGHT_DIGESTS_DIR"  # environment variable
ENDING = ".sha256"  # of an entry's name
REMEMBERED = 64 << 20  # bytes: smaller files are hashed sooner than a file is looked up on a slow disk
ENTRIES = 4096  # that are kept, the newest
SETTLED = 10.0  # seconds: file systems' clocks are coarse, and a second change within a tick would go unseen
PART = 256 << 20  # bytes that a thread hashes alone
READ = 4 << 20  # bytes that it reads at once
THREADS = 8
PATIENCE, SLOWEST = 10.0, 200e6  # seconds, and bytes a second of a slow disk: how long to wait for another process


def folder_fingerprint(folder: Path) -> str:
    """sha256 over config.json and the whole content of every file that holds weights.

    Files that are missing are left out: the loader refuses such a folder by name.

    Raises:
        BackboneError: a file cannot be read.
    """
    names = [name for name in weight_files(folder)[0] if (folder / name).is_file()]
    try:
        digest = hashlib.sha256((folder / "config.json").read_bytes())
        for name, content in zip(names, _digests([folder / name for name in names]), strict=True):
            digest.update(f"{name} {content}\n".encode())
    except OSError as error:
        reason = f"{error.strerror} while reading; check the disk, or copy the file again"
        raise BackboneError(f"backbone {error.filename or folder}: {reason}") from None
    return digest.hexdigest()


def weight_files(folder: Path) -> tuple[list[str], dict[str, str], list[str]]:
    """Names of the files that hold a folder's weights, each tensor's file by the index, and what is wrong with it."""
    index = folder / "model.safetensors.index.json"
    if index.exists():
        try:
            wanted = dict(json.loads(index.read_text())["weight_map"])
            return sorted(set(wanted.values())), wanted, []
        except (ValueError, KeyError, TypeError):
            return [], {}, [f"{index.name} is not a safetensors index; copy it again"]
    if (folder / "model.safetensors").exists():
        return ["model.safetensors"], {}, []
    return [], {}, ["holds neither model.safetensors nor model.safetensors.index.json"]


def backbone_fingerprint(card: BackboneCard) -> str:
    """Hash of what decides the frozen weights: the card, and for a folder its files."""
    files = ""
    if card.path and not card.dummy:
        files = folder_fingerprint(Path(card.path))
    return hashlib.sha256((card.fingerprint() + files).encode()).hexdigest()


def stamp(file: Path) -> str | None:
    """What changes whenever the file's content does; None for a file that was changed a moment ago."""
    found = file.stat()
    if time.time() - found.st_ctime < SETTLED:
        return None
    return f"{file.resolve()}|{found.st_size}|{found.st_mtime_ns}|{found.st_ino}|{found.st_ctime_ns}"


def _digests(files: Sequence[Path]) -> list[str]:
    """Of each file's content, in the files' order."""
    stamps: dict[Path, str | None] = dict.fromkeys(files)
    for file in files:
        if file.stat().st_size >= REMEMBERED:
            stamps[file] = stamp(file)
    if all(_remembered(name) for name in stamps.values() if name):
        return _looked_up(stamps)
    with _turn(sum(file.stat().st_size for file in files)):
        return _looked_up(stamps)


def _looked_up(stamps: dict[Path, str | None]) -> list[str]:
    """Remembered, or made and remembered now; ``stamps``: of the files that may be remembered."""
    out: dict[Path, str] = dict.fromkeys(stamps, "")
    for file, name in stamps.items():
        if name:
            out[file] = _remembered(name)
    missing = [file for file, digest in out.items() if not digest]
    for file, digest in zip(missing, _hashed(missing), strict=True):
        out[file] = digest
        name = stamps[file]
        if name and name == stamp(file):  # else it changed while it was hashed
            _remember(name, digest)
    return list(out.values())


def _hashed(files: Sequence[Path]) -> list[str]:
    """sha256 of each file, over those of its parts: several threads share one large file."""
    parts: list[tuple[Path, int]] = []
    for file in files:
        parts += [(file, start) for start in range(0, max(file.stat().st_size, 1), PART)]
    digests = {file: hashlib.sha256() for file in files}
    with ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as pool:
        for (file, _), part in zip(parts, pool.map(lambda p: _part(*p), parts), strict=True):
            digests[file].update(part)
    return [digests[file].hexdigest() for file in files]


def _part(file: Path, start: int) -> bytes:
    digest, memory, left = hashlib.sha256(), memoryview(bytearray(READ)), PART
    with file.open("rb", buffering=0) as stream:
        stream.seek(start)
        while left and (size := stream.readinto(memory[: min(READ, left)])):
            digest.update(memory[:size])
            left -= size
    return digest.digest()


# ---- what is remembered --------------------------------------------------------------------------------


def _folder() -> Path | None:
    name = os.environ.get(FOLDER)
    if not name:
        return None
    return Path(name)


def _entry(name: str) -> Path | None:
    folder = _folder()
    if folder is None:
        return None
    return folder / f"{hashlib.sha256(name.encode()).hexdigest()}{ENDING}"


def _remembered(name: str) -> str:
    """The digest; empty where there is none."""
    entry = _entry(name)
    if entry is None:
        return ""
    try:
        digest = entry.read_text()
    except (OSError, ValueError):  # none yet, or not ours
        return ""
    if not re.fullmatch("[0-9a-f]{64}", digest):  # a damaged one is made again
        return ""
    return digest


def _remember(name: str, digest: str) -> None:
    """Write an entry in one go; a folder that takes none costs time alone."""
    entry = _entry(name)
    if entry is None:
        return
    partial = entry.with_name(f".{entry.name}.{os.uname().nodename}.{os.getpid()}.partial")
    with contextlib.suppress(OSError):
        try:
            with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as stream:
                stream.write(digest)
            partial.replace(entry)
        finally:
            partial.unlink(missing_ok=True)
        for old in sorted(entry.parent.glob(f"*{ENDING}"), key=lambda file: file.stat().st_mtime)[:-ENTRIES]:
            old.unlink(missing_ok=True)


@contextlib.contextmanager
def _turn(size: int) -> Iterator[None]:
    """One process of a node at a time: its other ranks wait for the first, and find what it has remembered.

    Args:
        size: bytes that the first hashes, which bound the wait: another program may hold the lock for longer.
    """
    with contextlib.ExitStack() as stack:
        folder, deadline = _folder(), time.monotonic() + PATIENCE + size / SLOWEST
        if folder is not None:
            with contextlib.suppress(OSError):  # no such folder, or a file system without locks: each rank hashes
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
                lock = os.open(folder / f"{os.uname().nodename}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                stack.callback(os.close, lock)
                while not _locked(lock) and time.monotonic() < deadline:
                    time.sleep(0.2)
        yield


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
