"""What a device reaches at most: a matrix product, a copy within its memory, a copy from the host. What a step reaches
is measured against these.

    python -m benchmarks.ceilings --output benchmarks/results/ceilings_h100.json

Numbers are drawn, not zeros: a GPU multiplies zeros faster. Copies count bytes read and written; those from the host
count once.
"""

from collections.abc import Callable
from typing import Any

import torch

from benchmarks.common.timing import alternate, run

# m, k, n of a product (m, k) x (k, n): a large square, and a Llama 8B's widest linear layer on a row of 16,384 tokens
SIZES: dict[str, dict[str, Any]] = {
    "cuda": {
        "product 8192 x 8192 x 8192": (8192, 8192, 8192),
        "product 16384 x 4096 x 14336": (16384, 4096, 14336),
        "copy": 1 << 32,
        "from the host": 1 << 30,
    },
    "cpu": {"product 256 x 256 x 256": (256, 256, 256), "copy": 1 << 22, "from the host": 1 << 22},
}


def measure(name: str, device: torch.device, repeats: int) -> dict[str, Any]:
    size = SIZES[device.type][name]
    g = torch.Generator(device).manual_seed(0)
    call: Callable[[], object]
    if isinstance(size, tuple):
        m, k, n = size
        dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        a = torch.randn(m, k, generator=g, device=device, dtype=dtype)
        b = torch.randn(n, k, generator=g, device=device, dtype=dtype)
        call, amount, unit = (lambda: a @ b.T), 2 * m * k * n, "operations"
    else:
        there = torch.randint(0, 255, (size,), dtype=torch.uint8, device=device, generator=g)
        source, amount, unit = torch.empty_like(there), 2 * size, "bytes"
        if name == "from the host":
            source, amount = torch.empty(size, dtype=torch.uint8, pin_memory=device.type == "cuda"), size
        call = lambda: there.copy_(source, non_blocking=True)  # noqa: E731
    seconds = alternate({"once": call}, repeats, device)
    return {"size": name, "seconds": seconds, "unit": unit, "per_second": amount / seconds["once"]}


if __name__ == "__main__":
    run(__doc__, measure, SIZES, 10)
