"""Random access to a gzip stream: what a tar.gz needs whose members are read in another order than it holds them.

The stream is read once to its end. On the way the decompressor's state is kept at up to `MAX_POINTS` places (about 40
KB each), and a later read starts from the nearest one before it. So neither memory nor the disk ever holds the expanded
archive.
"""

from __future__ import annotations

import io
import zlib
from typing import Any, BinaryIO

CHUNK = 1 << 16
MAX_POINTS = 256
FIRST_SPACING = 1 << 20
_GZIP = 16 + zlib.MAX_WBITS


class TooLarge(ValueError):
    """The stream expands beyond its limit."""


class SeekableGzip(io.RawIOBase):
    """The decompressed stream, readable at any place.

    Args:
        file: the gzip file, seekable. limit: bytes after which `TooLarge` is raised.
    """

    def __init__(self, file: BinaryIO, limit: int):
        super().__init__()
        self._file, self._limit = file, limit
        self._spacing = FIRST_SPACING
        self._points: list[tuple[int, int, Any]] = [(0, 0, zlib.decompressobj(_GZIP))]
        self._wanted = 0
        self._restore(self._points[0])

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._wanted

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence == io.SEEK_END:
            raise io.UnsupportedOperation("the length is not known")
        self._wanted = max(0, offset + (self._wanted if whence == io.SEEK_CUR else 0))
        return self._wanted

    def read(self, size: int = -1) -> bytes:
        """Up to `size` bytes, fewer at the end only."""
        self._go()
        parts, missing = [], self._limit if size < 0 else size
        while missing > 0 and self._fill():
            part = self._ready[:missing]
            self._take(len(part))
            parts.append(part)
            missing -= len(part)
        self._wanted = self._start
        return b"".join(parts)

    def drain(self) -> None:
        """Read on to the end, for the checksum there."""
        while self._fill():
            self._take(len(self._ready))
        self._wanted = self._start

    def _go(self) -> None:
        """Make `_wanted` the next byte, from the nearest kept place before it unless the present one is nearer."""
        point = max((p for p in self._points if p[0] <= self._wanted), key=lambda p: p[0])
        if not point[0] <= self._start <= self._wanted:
            self._restore(point)
        while self._start < self._wanted and self._fill():
            self._take(min(len(self._ready), self._wanted - self._start))

    def _restore(self, point: tuple[int, int, Any]) -> None:
        self._start, self._next_input, inner = point
        self._inner = inner.copy()
        self._ready = b""

    def _take(self, count: int) -> None:
        self._ready = self._ready[count:]
        self._start += count

    def _fill(self) -> bool:
        """Have decompressed bytes ready; False at the end. `_next_input` is the file's first byte not yet used."""
        while not self._ready:
            self._file.seek(self._next_input)
            data = self._file.read(CHUNK)
            if self._inner.eof:
                data, before = data.lstrip(b"\0"), len(data)  # padding after a stream
                self._next_input += before - len(data)
                if not data and before < CHUNK:
                    return False
                if not data:
                    continue
                self._inner = zlib.decompressobj(_GZIP)
            elif not data:
                raise EOFError("the gzip stream ends early")
            self._ready = self._inner.decompress(data, CHUNK)
            self._next_input += len(data) - len(
                self._inner.unused_data if self._inner.eof else self._inner.unconsumed_tail
            )
            produced = self._start + len(self._ready)
            if produced > self._limit:
                raise TooLarge
            if produced >= self._points[-1][0] + self._spacing:
                self._points.append((produced, self._next_input, self._inner.copy()))
                if len(self._points) > MAX_POINTS:
                    self._points, self._spacing = self._points[::2], 2 * self._spacing
        return True
