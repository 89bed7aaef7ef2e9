"""Reading ahead: in the order expected, before it is asked for, by one thread that ends."""

import threading

import pytest

from engine.data.sample import Sample
from engine.training.teachers.read_ahead import DEPTH, ReadAhead

PATIENCE = 30.0  # seconds after which a thread that does not come is a failure


def groups(n: int) -> list[list[Sample]]:
    return [[Sample([1], [2], row=0, index=k)] for k in range(n)]


def running() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("read-ahead")]


class Reads:
    """A read that is recorded. ``done[k]`` is set once sample k was read."""

    def __init__(self, n: int):
        self.order: list[int] = []
        self.done = [threading.Event() for _ in range(n)]

    def __call__(self, group) -> int:
        index = group[0].index
        self.order.append(index)
        self.done[index].set()
        return 10 * index


def test_reads_come_before_they_are_asked_for_and_no_further_than_the_depth() -> None:
    to_come, reads = groups(6), Reads(6)
    ahead = ReadAhead(reads)
    ahead.expect(to_come)
    for k, group in enumerate(to_come):
        for near in reads.done[k : k + DEPTH]:
            assert near.wait(PATIENCE)
        assert reads.order == list(range(min(6, k + DEPTH)))
        assert ahead.take(group) == 10 * k
    assert len(running()) == 1
    ahead.close()
    assert not running()


def test_what_is_still_expected_is_not_read_twice() -> None:
    to_come, reads = groups(6), Reads(6)
    ahead = ReadAhead(reads)
    ahead.expect(to_come[:2])
    assert ahead.take(to_come[0]) == 0
    ahead.expect(to_come[1:4])
    assert [ahead.take(group) for group in to_come[1:4]] == [10, 20, 30]
    assert reads.order == [0, 1, 2, 3]
    ahead.close()


def test_an_unexpected_group_is_read_when_it_is_asked_for() -> None:
    to_come, reads = groups(6), Reads(6)
    ahead = ReadAhead(reads)
    assert ahead.take(to_come[5]) == 50 and not running()
    ahead.expect(to_come[:3])
    for begun in reads.done[:DEPTH]:
        assert begun.wait(PATIENCE)
    assert ahead.take(to_come[4]) == 40
    assert ahead.take(to_come[0]) == 0  # what was expected before is forgotten, and read again
    assert reads.order == [5, 0, 1, 4, 0]
    ahead.close()
    assert ahead.take(to_come[1]) == 10 and not running()


def test_an_error_is_raised_where_its_read_is_asked_for() -> None:
    def read(group) -> int:
        if group[0].index == 1:
            raise RuntimeError("file 1 is damaged")
        return group[0].index

    to_come = groups(3)
    ahead = ReadAhead(read)
    ahead.expect(to_come)
    assert ahead.take(to_come[0]) == 0
    with pytest.raises(RuntimeError, match="file 1"):
        ahead.take(to_come[1])
    assert ahead.take(to_come[2]) == 2
    ahead.close()
    assert not running()
