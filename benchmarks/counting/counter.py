"""What every operator moves and computes, and how long it takes at least."""

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

# of an H100 SXM: what large bf16 products reach, 85 % of its memory's peak, and a kernel's least time
MATRIX, MEMORY, LAUNCH = 650e12, 2.85e12, 3e-6
META = torch.device("meta")

# operators that give out another view of memory, or memory that nobody has written to
VIEWS = {
    "view",
    "_unsafe_view",
    "expand",
    "transpose",
    "t",
    "permute",
    "slice",
    "select",
    "unsqueeze",
    "squeeze",
    "detach",
    "alias",
    "split",
    "split_with_sizes",
    "unbind",
    "as_strided",
    "reshape",
    "unflatten",
    "_reshape_alias",
    "view_as",
    "empty",
    "empty_like",
    "new_empty",
    "empty_strided",
    "new_empty_strided",
    "lift_fresh",
    "is_same_size",
    "sym_size",
}
LOOKUPS = {"index_select", "index", "embedding", "gather"}
SCATTERS = {"index_copy", "index_copy_", "index_add_", "scatter", "scatter_", "index_put_"}
FILLS = {"zeros", "zeros_like", "new_zeros", "ones", "ones_like", "full", "full_like", "fill_", "zero_", "arange"}
PRODUCTS = {"mm", "addmm", "bmm", "_grouped_mm"}


@dataclass
class Cost:
    """Of one kind of operator: calls, bytes read and written, operations of matrix products, seconds modelled."""

    launches: int = 0
    bytes: int = 0
    operations: int = 0
    seconds: float = 0.0

    def add(self, other: "Cost") -> None:
        self.launches += other.launches
        self.bytes += other.bytes
        self.operations += other.operations
        self.seconds += other.seconds


class Counter(TorchDispatchMode):
    """``costs``: (phase, operator) -> Cost."""

    def __init__(self) -> None:
        super().__init__()
        self.phase, self.costs = "", defaultdict[tuple[str, str], Cost](Cost)

    def note(self, name: str, moved: int, operations: int = 0) -> None:
        seconds = max(moved / MEMORY, operations / MATRIX, LAUNCH)
        self.costs[self.phase, name].add(Cost(1, moved, operations, seconds))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        given = _tensors((args, kwargs))
        if name not in VIEWS and any(t.device == META for t in given + _tensors(out)):
            self.note(name, _moved(name, given, _tensors(out)), _operations(name, given))
        return out


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_flatten(tree)[0] if isinstance(leaf, Tensor)]


def size_of(tensor: Tensor) -> int:
    """Bytes that a kernel reads: what is expanded is read once."""
    numbers = 1
    for n, stride in zip(tensor.shape, tensor.stride(), strict=True):
        numbers *= n if stride else 1
    return numbers * tensor.element_size()


def _moved(name: str, given: list[Tensor], made: list[Tensor]) -> int:
    if name in FILLS:
        return sum(map(size_of, made))
    if name in LOOKUPS:  # of the table only the rows that are asked for
        return 2 * sum(map(size_of, made))
    if name in SCATTERS:  # of the target only the rows that change; a sum reads them too
        return (3 if name == "index_add_" else 2) * size_of(given[-1])
    return sum({id(t): size_of(t) for t in given + made}.values())


def _operations(name: str, given: list[Tensor]) -> int:
    if name not in PRODUCTS:
        return 0
    x, weight = [t for t in given if t.dim() >= 2][-2:]
    return 2 * x.numel() * weight.shape[-1]
