"""Amounts of memory in words."""


def size_text(number: float) -> str:
    """Bytes with a unit: ``1.25 GB`` from 100 MB on, ``4.35 MB`` from 10 kB on, else ``0.21 kB``."""
    for unit, size, least in (("GB", 1e9, 1e8), ("MB", 1e6, 1e4)):
        if number >= least:
            return f"{number / size:.2f} {unit}"
    return f"{number / 1e3:.2f} kB"
