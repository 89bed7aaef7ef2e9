"""Released weights: safetensors files of a folder, of which any stretch of a flattened weight can be read alone."""

import json
import math
import mmap
import os
import struct
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from backbones.card import BackboneError
from backbones.loading.digests import weight_files
from backbones.loading.weight_source import CHUNK, Stored

DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "U8": torch.uint8}


class _Place(NamedTuple):
    file: Path
    offset: int  # bytes from the file's begin
    stored: Stored


class SafetensorsSource:
    """A released folder: ``model.safetensors``, or shards listed in ``model.safetensors.index.json``.

    Only bytes that are asked for are read, straight into their destination where no conversion is needed.

    Raises:
        BackboneError: every file that is missing, torn, of an unknown dtype or contradicts the index.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        places, problems = _index(folder)
        if problems:
            raise BackboneError([f"backbone {folder}: {p}" for p in problems])
        self._places = places
        self._open: dict[Path, int] = {}
        for file in sorted({p.file for p in places.values()}):
            self._open[file] = os.open(file, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self) -> None:
        for descriptor in getattr(self, "_open", {}).values():
            os.close(descriptor)

    def tensors(self) -> dict[str, Stored]:
        return {name: place.stored for name, place in self._places.items()}

    def read(self, name: str, start: int, out: Tensor) -> None:
        place = self._places[name]
        size = place.stored.dtype.itemsize
        if out.dtype == place.stored.dtype:
            self._bytes(place.file, place.offset + start * size, out)
            return
        for begin in range(0, out.numel(), CHUNK):
            part = torch.empty(min(CHUNK, out.numel() - begin), dtype=place.stored.dtype)
            self._bytes(place.file, place.offset + (start + begin) * size, part)
            out[begin : begin + len(part)].copy_(part)

    def rename(self, others: dict[str, str]) -> None:
        """Call a shared tensor that lies there under another name alone by its first; ``others``: name -> first."""
        for name, first in others.items():
            if name in self._places and first not in self._places:
                self._places[first] = self._places.pop(name)

    def files(self) -> list[Path]:
        """Those that hold tensors."""
        return sorted(self._open)

    def mapped(self, name: str) -> Tensor:
        """The weight as it lies in the file, memory-mapped: read only what is touched, and write nothing."""
        place = self._places[name]
        with place.file.open("rb") as stream:
            memory = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY)
        return torch.frombuffer(
            memory, dtype=place.stored.dtype, count=math.prod(place.stored.shape), offset=place.offset
        ).view(place.stored.shape)

    def _bytes(self, file: Path, offset: int, out: Tensor) -> None:
        view = memoryview(out.view(torch.uint8).numpy().data)
        while len(view):
            try:
                done = os.preadv(self._open[file], [view], offset)
            except OSError as error:
                raise BackboneError(
                    f"backbone {file}: {error.strerror} while reading; check the disk, or copy the file again"
                ) from None
            if done == 0:
                raise BackboneError(f"backbone {file}: ended while it was read; has it been replaced?")
            view, offset = view[done:], offset + done


def _index(folder: Path) -> tuple[dict[str, _Place], list[str]]:
    """Where each tensor lies, and what is wrong with the files."""
    names, wanted, problems = weight_files(folder)
    if problems:
        return {}, problems
    problems = []
    for name in names:
        if not (folder / name).is_file():
            problems.append(f"{name} is named in the index but missing; finish the download")
    places: dict[str, _Place] = {}
    for name in names:
        if (folder / name).is_file():
            try:
                places |= _header(folder / name)
            except _Torn as torn:
                problems.append(f"{name}: {torn}")
    if not problems:  # else every tensor of a broken file would be told once more
        for key, file in wanted.items():
            if key not in places:
                problems.append(f"{key} should be in {file} according to the index, but is not")
    return places, problems


class _Torn(ValueError):
    """What is wrong with one file."""


def _header(file: Path) -> dict[str, _Place]:
    """The tensors of one file; its format is 8 bytes of header length, a JSON header, data."""
    size = file.stat().st_size
    try:
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            if length > size - 8:
                raise ValueError
            header: dict[str, Any] = json.loads(stream.read(length))
    except OSError as error:
        raise _Torn(f"cannot be read ({error.strerror})") from None
    except (ValueError, struct.error):
        raise _Torn("not readable as safetensors; copy it again") from None
    header.pop("__metadata__", None)
    out = {}
    for name, entry in header.items():
        if entry.get("dtype") not in DTYPES:
            raise _Torn(f"{name}: dtype must be one of {', '.join(DTYPES)}; got {entry.get('dtype')}")
        stored = Stored(tuple(entry["shape"]), DTYPES[entry["dtype"]])
        begin, end = entry["data_offsets"]
        if end - begin != math.prod(stored.shape) * stored.dtype.itemsize:
            raise _Torn(f"{name}: {end - begin} bytes for shape {stored.shape}; copy the file again")
        if 8 + length + end > size:
            whole = 8 + length + max(other["data_offsets"][1] for other in header.values())
            raise _Torn(f"cut short: {size:,} bytes, its header says {whole:,}; copy it again")
        out[name] = _Place(file, 8 + length + begin, stored)
    return out
