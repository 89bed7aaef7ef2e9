"""Checksums of what later runs read. Flipped bits, cut and swapped files are seen before anything is computed from it.

A safetensors file carries its own, in its metadata: SHA-256 over all of its bytes, header and data, with zeros in
the checksum's place. Files are read in blocks, not mapped: a bad sector of a mapped file would end the process.
"""

import hashlib
import re
from pathlib import Path
from typing import BinaryIO

KEY, EMPTY = "checksum", "0" * 64
_FIELD = re.compile(rb'"checksum":"([0-9a-f]{64}) ([^"]*)"')
_BLOCK = 1 << 20  # bytes


def unsealed(of: str) -> dict[str, str]:
    """Metadata to save a safetensors file with, before ``seal``.

    Args:
        of: what the file holds, in words without quotes; two files that must not be taken for each other differ in it.
    """
    return {KEY: f"{EMPTY} {of}"}


def seal(file: Path) -> None:
    """Write a file's checksum into its metadata.

    Raises:
        OSError: it cannot be written. ValueError: it was not saved with ``unsealed``.
    """
    with file.open("r+b") as stream:
        head = _head(stream, file.stat().st_size)
        found = _FIELD.search(head)
        if found is None:
            raise ValueError(f"{file}: there is no place for a checksum")
        checksum = _checksum(head, stream)
        stream.seek(found.start(1))
        stream.write(checksum.encode())


def damage(file: Path, of: str) -> str:
    """What is wrong with a sealed file, or nothing: it holds what was written as ``of``, to the bit. Reads it once."""
    try:
        with file.open("rb") as stream:
            size = file.stat().st_size
            if not size:
                return "is empty"
            head = _head(stream, size)
            fields = _FIELD.findall(head)
            if len(fields) != 1:
                return "its header is damaged"
            (checksum, written_as), *_ = fields
            if _checksum(head, stream).encode() != checksum:
                return "is damaged or cut (its checksum differs)"
            if written_as.decode() != of:
                return "is a different, intact file under this name"
            return ""
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    except ValueError as error:
        return str(error)


def sha256_of(file: Path) -> str:
    """Of a file's bytes, in hexadecimal.

    Raises:
        OSError: it cannot be read.
    """
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _head(stream: BinaryIO, size: int) -> bytes:
    """A safetensors file's header and the eight bytes before it, which say how long it is."""
    length = stream.read(8)
    n = int.from_bytes(length, "little")
    if n > size - len(length):
        raise ValueError("has a damaged or truncated header")
    return length + stream.read(n)


def _checksum(head: bytes, stream: BinaryIO) -> str:
    digest = hashlib.sha256(_FIELD.sub(lambda m: m[0].replace(m[1], EMPTY.encode(), 1), head))
    while block := stream.read(_BLOCK):
        digest.update(block)
    return digest.hexdigest()
