"""Where frozen weights come from: safetensors as released, or a seed. Any stretch of a flattened weight can be read
alone.
"""

import hashlib
import json
import math
import mmap
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedConfig

from backbones.card import BackboneError
from backbones.layers import BLOCK, PACKED, dequantise, quantise

CHUNK = 1 << 20  # numbers that a dummy weight draws from one seed, and that are converted at once
DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "U8": torch.uint8}


class Stored(NamedTuple):
    shape: tuple[int, ...]
    dtype: torch.dtype


class WeightSource(Protocol):
    """Named tensors, of which several threads may read parts."""

    def tensors(self) -> dict[str, Stored]: ...

    def read(self, name: str, start: int, out: Tensor) -> None:
        """Fill ``out``, 1-D and contiguous on the CPU, with the flattened weight's numbers from ``start`` on,
        converted to its dtype.
        """


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


def weight_files(folder: Path) -> tuple[list[str], dict[str, str], list[str]]:
    """Names of the files that hold a folder's weights, each tensor's file by the index, and what is wrong with it."""
    index = folder / "model.safetensors.index.json"
    if index.exists():
        try:
            wanted = dict(json.loads(index.read_text())["weight_map"])
            return sorted(set(wanted.values())), wanted, []
        except (ValueError, KeyError, TypeError):
            return [], {}, [f"{index.name} is no safetensors index; copy it again"]
    if (folder / "model.safetensors").exists():
        return ["model.safetensors"], {}, []
    return [], {}, ["holds neither model.safetensors nor model.safetensors.index.json"]


def _index(folder: Path) -> tuple[dict[str, _Place], list[str]]:
    """Where each tensor lies, and what is wrong with the files."""
    names, wanted, problems = weight_files(folder)
    if problems:
        return {}, problems
    problems = [
        f"{n} is named in the index but missing; finish the download" for n in names if not (folder / n).is_file()
    ]
    places: dict[str, _Place] = {}
    for name in names:
        if (folder / name).is_file():
            try:
                places |= _header(folder / name)
            except _Torn as torn:
                problems.append(f"{name}: {torn}")
    if not problems:  # else every tensor of a broken file would be told once more
        problems += [
            f"{key} should be in {file}, says the index; it is not" for key, file in wanted.items() if key not in places
        ]
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
            raise _Torn(f"{name} has dtype {entry.get('dtype')}; known are {', '.join(DTYPES)}")
        stored = Stored(tuple(entry["shape"]), DTYPES[entry["dtype"]])
        begin, end = entry["data_offsets"]
        if end - begin != math.prod(stored.shape) * stored.dtype.itemsize:
            raise _Torn(f"{name}: {end - begin} bytes for shape {stored.shape}; copy the file again")
        if 8 + length + end > size:
            raise _Torn(
                f"cut short: {size:,} bytes, its header speaks of "
                f"{8 + length + max(e['data_offsets'][1] for e in header.values()):,}; copy it again"
            )
        out[name] = _Place(file, 8 + length + begin, stored)
    return out


class WidenedExperts:
    """Another source's MXFP4 experts as the matrices that transformers' GptOssExperts holds: (E, in, out), of no
    dtype of their own.
    """

    def __init__(self, inner: "SafetensorsSource", dtype: torch.dtype):
        self.inner, self.dtype = inner, dtype

    def mapped(self, name: str) -> Tensor:
        return self.inner.mapped(name)

    def tensors(self) -> dict[str, Stored]:
        out = {}
        for name, stored in self.inner.tensors().items():
            if name.endswith("_blocks"):
                experts, rows, groups, _ = stored.shape
                out[name.removesuffix("_blocks")] = Stored((experts, groups * BLOCK, rows), self.dtype)
            elif not name.endswith("_scales"):
                out[name] = stored
        return out

    def read(self, name: str, start: int, out: Tensor) -> None:
        stored = self.inner.tensors().get(f"{name}_blocks")
        if stored is None:
            self.inner.read(name, start, out)
            return
        _, rows, groups, half = stored.shape
        each = rows * groups * BLOCK
        for expert, own, place in _pieces(start, out.numel(), each):
            blocks, scales = (
                torch.empty(rows * groups * half, dtype=torch.uint8),
                torch.empty(rows * groups, dtype=torch.uint8),
            )
            self.inner.read(f"{name}_blocks", expert * len(blocks), blocks)
            self.inner.read(f"{name}_scales", expert * len(scales), scales)
            # only the groups of inputs that the stretch touches are widened: an expert is read in several parts
            first, end = own.start // rows // BLOCK, -(-own.stop // (rows * BLOCK))
            touched = blocks.view(rows, groups, half)[:, first:end], scales.view(rows, groups)[:, first:end]
            wide, skipped = dequantise(*touched, out.dtype), first * BLOCK * rows
            out[place].copy_(wide.T.flatten()[own.start - skipped : own.stop - skipped])


def _pieces(start: int, count: int, each: int) -> Iterator[tuple[int, slice, slice]]:
    """A stretch of numbers cut at multiples of ``each``: (which, its own numbers, their place in the stretch)."""
    done = 0
    while done < count:
        which, first = divmod(start + done, each)
        n = min(each - first, count - done)
        yield which, slice(first, first + n), slice(done, done + n)
        done += n


class RandomSource:
    """Weights drawn by transformers' own initialisation from a seed, in fp32, outside DeepSpeed; whole in this process.

    Args:
        mxfp4: give the experts as MXFP4.
    """

    def __init__(self, config: PreTrainedConfig, seed: int, mxfp4: bool = False):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            weights = dict(AutoModelForCausalLM.from_config(config, dtype=torch.float32).named_parameters())
        self._weights: dict[str, Tensor] = {}
        for name, weight in weights.items():
            if mxfp4 and name.endswith(PACKED):
                self._weights[f"{name}_blocks"], self._weights[f"{name}_scales"] = quantise(
                    weight.detach().transpose(1, 2)
                )
            else:
                self._weights[name] = weight.detach()

    def tensors(self) -> dict[str, Stored]:
        return {name: Stored(tuple(weight.shape), weight.dtype) for name, weight in self._weights.items()}

    def read(self, name: str, start: int, out: Tensor) -> None:
        out.copy_(self._weights[name].flatten()[start : start + out.numel()])


class ConvertedSource:
    """A released folder through transformers' own loader, which knows how a family's weights are renamed and
    merged; whole in this process.
    """

    def __init__(self, folder: Path):
        model, found = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype="auto",
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
        )
        wrong = [
            f"{kind.removesuffix('_keys')}: {n}"
            for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")
            for n in sorted(map(str, found[kind]))
        ]
        if wrong:
            raise BackboneError([f"backbone {folder}: {w}" for w in wrong])
        self._weights = {name: weight.detach() for name, weight in model.named_parameters()}

    def tensors(self) -> dict[str, Stored]:
        return {name: Stored(tuple(weight.shape), weight.dtype) for name, weight in self._weights.items()}

    def read(self, name: str, start: int, out: Tensor) -> None:
        out.copy_(self._weights[name].flatten()[start : start + out.numel()])


class DummySource:
    """Seeded values of any shape, drawn where they are asked for: an 8B model's worth without its files or a second
    copy of it.

    A weight has the same values resident, partitioned and offloaded. A GPU's differ from a CPU's, and may differ from
    another kind of GPU's.

    Args:
        wanted: what the model holds.
        device: draws the numbers, wherever they go. A core of a CPU draws 0.14 billion a second: 7 s for Llama-8B with
            eight.
    """

    def __init__(self, wanted: dict[str, Stored], seed: int, device: torch.device | None = None):
        self.wanted, self.seed = wanted, seed
        # with its index: the threads that read have a current device of their own
        self.device = torch.empty(0, device=device or "cpu").device

    def tensors(self) -> dict[str, Stored]:
        return self.wanted

    def read(self, name: str, start: int, out: Tensor) -> None:
        """As of any source; ``out`` may also be on a GPU."""
        if "norm" in name or name.endswith("_scales"):
            out.fill_(1 if "norm" in name else 120)  # 2^-7 times e2m1's spread is about 0.02
            return
        for chunk, own, place in _pieces(start, out.numel(), CHUNK):
            seed = int.from_bytes(hashlib.sha256(f"{self.seed}|{name}|{chunk}".encode()).digest()[:8], "little") >> 1
            generator = torch.Generator(self.device).manual_seed(seed)
            if out.dtype == torch.uint8:
                drawn = torch.randint(0, 256, (CHUNK,), dtype=torch.uint8, generator=generator, device=self.device)
            else:
                drawn = torch.empty(CHUNK, device=self.device).normal_(std=0.02, generator=generator)
            out[place].copy_(drawn[own].to(out.dtype))  # half the bytes on the way to the host
