"""What a source of frozen weights gives: named tensors, of which stretches are read."""

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

CHUNK = 1 << 20  # numbers that a dummy weight draws from one seed, and that are converted at once


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
