"""Amounts of memory in words: never 0.00 of a unit that is too large."""

import pytest

from engine.core.size_text import size_text


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (80e9, "80.00 GB"),
        (1e8, "0.10 GB"),
        (9.9e7, "99.00 MB"),
        (4_354_944, "4.35 MB"),
        (1e4, "0.01 MB"),
        (210, "0.21 kB"),
        (0, "0.00 kB"),
    ],
)
def test_the_unit_fits_the_number(number: float, text: str) -> None:
    assert size_text(number) == text
