"""Where frozen weights come from: safetensors as released, or a seed."""

import hashlib
import json
from pathlib import Path
from typing import Protocol

import torch
from safetensors import safe_open
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedConfig

from backbones.card import BackboneError

HASHED_TAIL = 1 << 20  # bytes


class WeightSource(Protocol):
    """Named tensors, read one at a time."""

    def shapes(self) -> dict[str, tuple[int, ...]]: ...

    def read(self, name: str) -> Tensor: ...


class SafetensorsSource:
    """A released folder: ``model.safetensors``, or shards listed in ``model.safetensors.index.json``."""

    def __init__(self, folder: Path):
        index = folder / "model.safetensors.index.json"
        if index.exists():
            names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        elif (folder / "model.safetensors").exists():
            names = ["model.safetensors"]
        else:
            raise BackboneError(f"backbone {folder}: holds neither model.safetensors nor model.safetensors.index.json")
        absent = [n for n in names if not (folder / n).exists()]
        if absent:
            raise BackboneError([f"backbone {folder}: {n} is named in the index but missing; finish the download" for n in absent])
        self._file_of: dict[str, Path] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        for name in names:
            try:
                with safe_open(folder / name, "pt") as file:
                    for key in file.keys():  # noqa: SIM118 - not a mapping, it has keys() only
                        self._file_of[key] = folder / name
                        self._shapes[key] = tuple(file.get_slice(key).get_shape())
            except Exception as error:  # SafetensorError and OSError: a torn or foreign file
                raise BackboneError(f"backbone {folder / name}: not readable as safetensors ({type(error).__name__}); copy it again") from None

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return self._shapes

    def read(self, name: str) -> Tensor:
        with safe_open(self._file_of[name], "pt") as file:
            return file.get_tensor(name)


class RandomSource:
    """Weights drawn by transformers' own initialisation from a seed, in fp32, outside DeepSpeed."""

    def __init__(self, config: PreTrainedConfig, seed: int):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self._weights = dict(AutoModelForCausalLM.from_config(config, dtype=torch.float32).named_parameters())

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: tuple(weight.shape) for name, weight in self._weights.items()}

    def read(self, name: str) -> Tensor:
        return self._weights[name].detach()


def check_names(wanted: dict[str, tuple[int, ...]], found: dict[str, tuple[int, ...]], tied: set[str], where: str) -> None:
    """Raise one BackboneError that lists every missing, extra and wrongly shaped weight. ``tied`` names may be extra."""
    problems = [f"missing: {n}" for n in sorted(wanted.keys() - found.keys())]
    problems += [f"not in the model: {n}" for n in sorted(found.keys() - wanted.keys() - tied)]
    problems += [f"shape of {n}: file {found[n]}, model {wanted[n]}" for n in sorted(wanted.keys() & found.keys()) if wanted[n] != found[n]]
    if problems:
        raise BackboneError([f"backbone {where}: {p}" for p in problems])


def folder_fingerprint(folder: Path) -> str:
    """sha256 over config.json and, of every safetensors file, its size, header and last mebibyte."""
    digest = hashlib.sha256((folder / "config.json").read_bytes())
    for path in sorted(folder.glob("*.safetensors")):
        size = path.stat().st_size
        with path.open("rb") as file:
            header = int.from_bytes(file.read(8), "little")
            digest.update(f"{path.name} {size}".encode() + file.read(min(header, size)))
            file.seek(max(0, size - HASHED_TAIL))
            digest.update(file.read())
    return digest.hexdigest()


class DummySource:
    """Seeded values of any shape, one parameter at a time: an 8B model's worth without its files or a second copy of it.

    Args:
        wanted: name -> shape of each parameter.
    """

    def __init__(self, wanted: dict[str, tuple[int, ...]], seed: int):
        self.wanted, self.seed = wanted, seed

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return self.wanted

    def read(self, name: str) -> Tensor:
        if "norm" in name:
            return torch.ones(self.wanted[name])
        digest = hashlib.sha256(f"{self.seed}|{name}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
        return torch.empty(self.wanted[name]).normal_(std=0.02, generator=generator)
