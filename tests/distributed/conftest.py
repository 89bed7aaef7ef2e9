"""Groups of ranks that all tests of this folder work through; each lasts as long as a file's tests."""

from collections.abc import Iterator

import pytest
from distributed_pool import Pool


def _group(world: int) -> Iterator[Pool]:
    pool = Pool(world)
    yield pool
    pool.close()


@pytest.fixture(scope="module")
def two() -> Iterator[Pool]:
    yield from _group(2)


@pytest.fixture(scope="module")
def three() -> Iterator[Pool]:
    yield from _group(3)


@pytest.fixture(scope="module")
def four() -> Iterator[Pool]:
    """Two nodes of two ranks, as far as the backbone can tell."""
    yield from _group(4)
