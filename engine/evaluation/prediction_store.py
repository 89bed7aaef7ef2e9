"""Answers on disk as they come, and read back by a command that goes on after a kill.

    predictions/TASK.METHOD.SHOTS.SEED.jsonl          a row that is done: one line an example, in the split's order
    predictions/.TASK.METHOD.SHOTS.SEED.rank0.part    what a rank has answered so far of a row that is not

A line carries a check of itself and of all that its answer depends on (the key): one that was torn or damaged, or that
another prompt, split or setting answered, is not read and the example asked again. Answers are model output on notes,
and protected like notes.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from clinical_tasks import Example
from engine.core import write_atomic
from engine.data import Sample
from strict_yaml import counted


@dataclass(frozen=True)
class Prediction:
    """An answer; whether it ended by itself; tokens generated for it, the end token included (0: an option, by
    likelihood).
    """

    text: str
    ended: bool = True
    tokens: int = 0


@dataclass
class InferenceStats:
    """What answering took, of answers that this command asked for. ``tokens``: generated; choices have none.
    ``read_back``: answers of an earlier command that were not asked again.
    """

    seconds: float = 0.0
    answers: int = 0
    tokens: int = 0
    read_back: int = 0

    def add(self, other: "InferenceStats") -> None:
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)

    def line(self) -> str:
        if not self.answers:
            return f"nothing generated, {counted(self.read_back, 'answer')} read back"
        tokens = f", {self.tokens / self.seconds:.0f} generated tokens/s" if self.tokens else ""
        rate = f"{self.answers / self.seconds:.1f} a second"
        return f"{counted(self.answers, 'answer')} in {self.seconds:.1f} s, {rate}{tokens}"


class PredictionInputs(Protocol):
    """What can be asked: a split, or a user's notes. ``sample_indices``: what fits; ``key``: hash of the content."""

    sample_indices: list[int]
    key: str

    def __len__(self) -> int: ...
    def example(self, index: int) -> Example: ...
    def sample(self, index: int) -> Sample: ...


class PredictionStore:
    """Answers of one row to one split.

    Args:
        key: of everything that the answers depend on.
    """

    def __init__(self, folder: Path, name: str, key: Any, rank: int):
        self.folder, self.file = folder, folder / f"{name}.jsonl"
        self.key = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
        self._part = folder / f".{name}.rank{rank}.part"
        self._stream: int | None = None

    def read(self, overwrite: bool = False) -> dict[int, Prediction]:
        """What is there and whole, by number; with ``overwrite`` nothing, and the rest of an earlier command goes. For
        one rank, before any adds.
        """
        self.folder.mkdir(exist_ok=True, parents=True, mode=0o700)
        if overwrite:
            self.forget()
            return {}
        found: dict[int, Prediction] = {}
        for path in (self.file, *self._parts()):
            if path.exists():
                for line in path.read_bytes().split(b"\n"):
                    whole = self._read_line(line)
                    if whole is not None:
                        index, answered = whole
                        found[index] = answered
        return found

    def add(self, index: int, answered: Prediction) -> None:
        """On disk when it returns."""
        if self._stream is None:
            self._stream = os.open(self._part, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            os.write(self._stream, b"\n")  # after a line that a kill tore
        left = (json.dumps(self._line(index, answered)) + "\n").encode()
        while left:
            left = left[os.write(self._stream, left) :]

    def close(self) -> None:
        """This rank adds no more."""
        if self._stream is not None:
            os.close(self._stream)
            self._stream = None

    def finish(self, questions: PredictionInputs, answered: Sequence[Prediction]) -> None:
        """Write the row's file, one line an example. For one rank, when all have closed."""
        lines = []
        for index, one in enumerate(answered):
            line = {"example_id": questions.example(index).example_id, **self._line(index, one)}
            lines.append(json.dumps(line) + "\n")
        write_atomic(self.file, "".join(lines))
        self.forget()

    def _line(self, index: int, a: Prediction) -> dict[str, Any]:
        content = {"index": index, "answer": a.text, "ended": a.ended, "tokens": a.tokens}
        check = hashlib.sha256(json.dumps([self.key, *content.values()]).encode()).hexdigest()[:16]
        return {"answer": a.text, "index": index, "ended": a.ended, "tokens": a.tokens, "check": check}

    def _read_line(self, text: bytes) -> tuple[int, Prediction] | None:
        try:
            line = json.loads(text)
            index, found = line["index"], Prediction(line["answer"], line["ended"], line["tokens"])
            if line["check"] == self._line(index, found)["check"]:
                return index, found
        except (ValueError, KeyError, TypeError):
            pass
        return None

    def _parts(self) -> list[Path]:
        stem = self._part.name.rpartition(".rank")[0] + ".rank"
        return sorted(p for p in self.folder.iterdir() if p.name.startswith(stem) and p.name.endswith(".part"))

    def forget(self) -> None:
        """What came so far is not needed any more. For one rank, when all have closed."""
        for path in self._parts():
            path.unlink()
