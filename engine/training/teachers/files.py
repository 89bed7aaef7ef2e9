"""Files of teachers' states: one is written whole or not at all, off the path of the forward passes.

A file carries a checksum and says what it is of. The states nearly spell the text: files are for their user alone.
"""

from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import torch
from safetensors.torch import save_file
from torch import Tensor

from engine.core import new_partial, publish, remove, seal, sync, unsealed
from engine.data import Sample
from prompt_modules import TeacherStates

WAITING = 2  # blocks whose states may be in host memory before the forward passes wait for the disk


@dataclass(frozen=True)
class Part:
    """Samples whose states are one file. ``of``: what the file says that it holds."""

    row: int
    indices: list[int]
    file: Path
    of: str


class Said:
    """A micro-batch's states on their way to the host. The host does not wait for the GPU before it asks for them."""

    def __init__(self, group: Sequence[Sample], states: TeacherStates):
        self.group, self._states, self._device = group, states, states.hidden_ND.device
        self._copied: torch.cuda.Event | None = None
        if states.hidden_ND.is_cuda:
            self._states = TeacherStates(*(_pinned_copy(tensor) for tensor in states))
            self._copied = torch.cuda.Event()
            self._copied.record()

    def by_sample(self) -> dict[tuple[int, int], TeacherStates]:
        """(bank row, sample) -> states of its answer tokens, on the host."""
        if self._copied is not None:
            # a thread begins on the first GPU: to wait there would take memory of it that belongs to another rank
            with torch.cuda.device(self._device):
                self._copied.synchronize()
        sizes = [len(sample.answer_ids) for sample in self.group]
        columns = [tensor.split(sizes) for tensor in self._states]
        found = {}
        for sample, states in zip(self.group, zip(*columns, strict=True), strict=True):
            found[sample.row, sample.index] = TeacherStates(*states)
        return found


def _pinned_copy(tensor: Tensor) -> Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor, non_blocking=True)


class Writer:
    """Writes files in one background thread, in the order given. Within ``with``; no thread outlives it.

    An error leaves what is still waiting unwritten; so does an exception within ``with``.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="teacher-files")
        self._waiting: deque[Future[str]] = deque()
        self.problem = ""

    def __enter__(self) -> "Writer":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def put(self, parts: Sequence[Part], said: Sequence[Said]) -> None:
        """Write ``parts``, whose samples are all in ``said``. Waits while ``WAITING`` calls before it are
        unfinished.
        """
        while len(self._waiting) >= WAITING:
            self._take()
        if not self.problem:
            self._waiting.append(self._pool.submit(_write_all, parts, said))

    def finish(self) -> str:
        """Wait until all is on disk; what went wrong, or nothing."""
        while self._waiting:
            self._take()
        return self.problem

    def _take(self) -> None:
        problem = self._waiting.popleft().result()
        self.problem = self.problem or problem


def _write_all(parts: Sequence[Part], said: Sequence[Said]) -> str:
    found: dict[tuple[int, int], TeacherStates] = {}
    for one in said:
        found |= one.by_sample()
    for part in parts:
        if problem := write(part, [found[part.row, index] for index in part.indices]):
            return problem
    return ""


def write(part: Part, found: Sequence[TeacherStates]) -> str:
    """Write a part's file; what went wrong, or nothing.

    Args:
        found: of each of its samples, in order.
    """
    lengths = torch.tensor([0] + [len(states.first_N) for states in found])
    columns = zip(TeacherStates._fields, zip(*found, strict=True), strict=True)
    tensors = {name: torch.cat(column) for name, column in columns}
    folder, partial = part.file.parent, None
    try:
        if not folder.exists():
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            sync(folder.parent)
        partial = new_partial(part.file)
        save_file({**tensors, "offsets": lengths.cumsum(0)}, str(partial), unsealed(part.of))
        partial.chmod(0o600)
        seal(partial)
        publish(partial, part.file)
    except Exception as error:  # safetensors has an error of its own for a full disk
        if partial is not None:
            remove(partial)
        reason = f"{type(error).__name__}: {error}"
        return f"teacher cache: {folder} cannot be written ({reason}). Make room, or set distill.teacher_cache: off"
    return ""
