"""Reads what the next micro-batches need before they ask for it, in one background thread."""

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

from engine.data import Sample

DEPTH = 2  # micro-batches whose reads may lie in host memory before they are asked for

Read = TypeVar("Read")


class ReadAhead(Generic[Read]):
    """Reads for micro-batches in the order in which they are expected; an unexpected one is read when it is asked for.

    The thread starts with the first ``expect`` and ends with ``close``. All reads after it started are its own, so that
    ``read`` is never called by two threads at once. An error in it is raised by the ``take`` that asks for that read.
    """

    def __init__(self, read: Callable[[Sequence[Sample]], Read]):
        self._read = read
        self._pool: ThreadPoolExecutor | None = None
        self._reading: deque[tuple[Sequence[Sample], Future[Read]]] = deque()
        self._expected: deque[Sequence[Sample]] = deque()

    def expect(self, groups: Sequence[Sequence[Sample]]) -> None:
        """Say all micro-batches to come, in order. What is being read and is no longer expected is dropped.

        A micro-batch is known by its identity: ``take`` must be given the same object.
        """
        same = 0
        for (group, _), to_come in zip(self._reading, groups, strict=False):
            if group is not to_come:
                break
            same += 1
        self._drop(same)
        self._expected = deque(groups[same:])
        self._go_on()

    def take(self, group: Sequence[Sample]) -> Read:
        """What ``group`` needs."""
        if self._reading and self._reading[0][0] is group:
            future = self._reading.popleft()[1]
            self._go_on()
            return future.result()
        self._drop(0)
        self._expected.clear()
        if self._pool is None:
            return self._read(group)
        return self._pool.submit(self._read, group).result()

    def close(self) -> None:
        """End the thread and forget what was read. A later ``expect`` starts anew."""
        self._drop(0)
        self._expected.clear()
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None

    def _drop(self, kept: int) -> None:
        while len(self._reading) > kept:
            self._reading.pop()[1].cancel()

    def _go_on(self) -> None:
        while self._expected and len(self._reading) < DEPTH:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(1, thread_name_prefix="read-ahead")
            group = self._expected.popleft()
            self._reading.append((group, self._pool.submit(self._read, group)))
