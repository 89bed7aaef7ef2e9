"""A finished run as merging reads it: its parts, and what of their tensors belongs to one row."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from engine.checkpoints import Checkpoint
from engine.config import RunConfig

Entry = tuple[int, int]  # number of the run, number of the row in it


@dataclass
class Run:
    """name: for people, without a path. spans: part -> its rows."""

    folder: Path
    name: str
    config: RunConfig
    found: Checkpoint
    spans: dict[str, range]

    @property
    def rows(self) -> list[dict[str, Any]]:
        return self.found.state["rows"]  # type: ignore[no-any-return]

    @property
    def sources(self) -> dict[str, str]:
        """Part -> the distillation that its rows started from."""
        return self.found.state["hashes"].get("sources", {})  # type: ignore[no-any-return]

    def tensors(self, part: str) -> dict[str, Tensor]:
        """By name, those of the best step with ``best.`` in front."""
        out = {}
        for name, tensor in self.found.prompts.items():
            best, _, rest = name.rpartition("parts.")
            if rest.startswith(f"{part}."):
                out[best + rest[len(part) + 1 :]] = tensor
        return out

    def frozen(self, part: str) -> set[str]:
        """Names of the part's tensors that no step changed."""
        prefix = f"parts.{part}."
        names = [name for name in self.found.reused.get("frozen", {}) if name.startswith(prefix)]
        return {name.removeprefix(prefix) for name in names}

    def of_row(self, k: int, tensor: Tensor) -> Tensor:
        """What of a tensor belongs to row ``k``: its own, or what all rows of its part share."""
        span = self.spans[self._part(k)]
        if rows_in_front(tensor) == len(span):
            return tensor[k - span.start]
        if rows_in_front(tensor) == 1:
            return tensor[0]
        return tensor

    def row(self, k: int) -> dict[str, Tensor]:
        """All that row ``k`` is made of."""
        return {name: self.of_row(k, tensor) for name, tensor in self.tensors(self._part(k)).items()}

    def _part(self, k: int) -> str:
        """Name of the part that row ``k`` is in."""
        return next(part for part, span in self.spans.items() if k in span)


def rows_in_front(tensor: Tensor) -> int:
    """The first dimension, which counts rows or is 1 for what they share; 0 for a number."""
    if tensor.dim() == 0:
        return 0
    return tensor.shape[0]
