"""Tensors that a model shares under two names, an embedding and its head as a rule, and folders that hold both."""

import functools
import math
from pathlib import Path
from typing import Any

import torch
from torch import nn

from backbones.card import BackboneError
from backbones.loading.digests import stamp
from backbones.loading.safetensors_source import SafetensorsSource

SLICE = 4 << 20  # numbers of each tensor that are compared at once


def shared_names(model: nn.Module) -> dict[str, str]:
    """Further names of parameters that have several -> the first name, by which everything here calls them."""
    first = {id(p): name for name, p in model.named_parameters()}
    every = model.named_parameters(remove_duplicate=False)
    return {name: first[id(p)] for name, p in every if name != first[id(p)]}


def stored_apart(folder: Path, family: Any, dtype: torch.dtype) -> list[tuple[str, str]]:
    """Pairs of names that a family shares and a folder holds with different values, as transformers keeps them.

    A folder without readable weights has none.

    Args:
        family: transformers' class. dtype: what the weights are used in, in which they are compared to the bit.
    """
    pairs = tuple((getattr(family, "_tied_weights_keys", None) or {}).items())
    try:
        source = SafetensorsSource(folder)
    except BackboneError:  # a folder for plans; build_backbone says what is missing
        return []
    stamps = tuple(stamp(file) for file in source.files())
    if None in stamps:
        return _different(source, pairs, dtype)
    return list(_remembered(folder, pairs, dtype, stamps))


@functools.lru_cache(maxsize=16)
def _remembered(folder: Path, pairs: Any, dtype: torch.dtype, stamps: Any) -> tuple[tuple[str, str], ...]:
    """A command asks for its backbone's configuration several times; ``stamps`` change with the files."""
    return tuple(_different(SafetensorsSource(folder), pairs, dtype))


def _different(source: SafetensorsSource, pairs: Any, dtype: torch.dtype) -> list[tuple[str, str]]:
    there = source.tensors()
    return [(a, b) for a, b in pairs if a in there and b in there and not _equal(source, one=a, other=b, dtype=dtype)]


def _equal(source: SafetensorsSource, one: str, other: str, dtype: torch.dtype) -> bool:
    """Slice by slice: neither tensor is ever whole in memory."""
    there = source.tensors()
    if there[one].shape != there[other].shape:
        return False
    total = math.prod(there[one].shape)
    for start in range(0, total, SLICE):
        a, b = (torch.empty(min(SLICE, total - start), dtype=dtype) for _ in range(2))
        source.read(one, start, a)
        source.read(other, start, b)
        if not torch.equal(a.view(torch.uint8), b.view(torch.uint8)):
            return False
    return True
