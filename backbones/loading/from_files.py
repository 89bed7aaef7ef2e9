"""Straight to the shard: each rank reads exactly the numbers that it keeps, into the memory where it keeps them.

A ZeRO-3 shard is one stretch of the flattened parameter, and so is a secondary (hpZ) shard. transformers' loader makes
the whole model on every rank under ZeRO-3, or broadcasts it from one; here nothing is whole anywhere and nothing is
sent. What stays in host memory is read straight to its place, pinned or not. What stays on a GPU goes there through
``staging``.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from backbones.card import BackboneError
from backbones.loading.sources import DummySource
from backbones.loading.staging import Staging, arrival
from backbones.loading.weight_source import Stored, WeightSource

PIECE = 16 << 20  # numbers that a thread reads at once
THREADS = 8  # each has two buffers of staging.BUFFER, if the weights go to a GPU: 128 MiB in all
EVERY = 10.0  # seconds between progress lines
FRACTIONS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def wanted_of(model: nn.Module) -> dict[str, Stored]:
    """Name -> shape and dtype of every parameter, however partitioned; tied ones once."""
    return {n: Stored(tuple(getattr(p, "ds_shape", p.shape)), p.dtype) for n, p in model.named_parameters()}


def check_names(wanted: dict[str, Stored], found: dict[str, Stored], tied: set[str], where: str) -> None:
    """Raise one BackboneError that lists every missing, extra, wrongly shaped and wrongly typed weight. ``tied``
    names may be extra.
    """
    problems = [f"missing: {n}" for n in sorted(wanted.keys() - found.keys())]
    problems += [f"not in the model: {n}" for n in sorted(found.keys() - wanted.keys() - tied)]
    for n in sorted(wanted.keys() & found.keys()):
        if wanted[n].shape != found[n].shape:
            problems.append(f"shape of {n}: file {found[n].shape}, model {wanted[n].shape}")
        elif wanted[n].dtype != found[n].dtype and not (wanted[n].dtype in FRACTIONS and found[n].dtype in FRACTIONS):
            problems.append(f"dtype of {n}: file {found[n].dtype}, model {wanted[n].dtype}")
    if problems:
        raise BackboneError([f"backbone {where}: {p}" for p in problems])


def fill(model: nn.Module, source: WeightSource, print_rank0: Callable[[str], None]) -> None:
    """Read this rank's part of every parameter.

    Args:
        print_rank0: takes progress lines.
    """
    jobs = []
    for name, parameter in model.named_parameters():
        for whole_start, whole in shards(parameter):
            jobs += [(name, start, out) for start, out in _cut(whole_start, whole)]
    total = sum(out.numel() * out.element_size() for _, _, out in jobs)
    done, begin, told = 0, time.monotonic(), time.monotonic()
    own = threading.local()
    pool = ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1))
    try:
        for size in pool.map(lambda job: _read(source, own, *job), jobs):
            done += size
            if time.monotonic() - told > EVERY:
                told = time.monotonic()
                print_rank0(
                    f"backbone: {done / 1e9:.1f} of {total / 1e9:.1f} GB of this rank's weights, "
                    f"{done / 1e9 / (told - begin):.2f} GB/s"
                )
    finally:
        pool.shutdown(cancel_futures=True)
    seconds = time.monotonic() - begin
    amount = f"{total / 1e9:.2f} GB" if total >= 1e8 else f"{total / 1e6:.2f} MB"
    speed = f", {total / 1e9 / seconds:.2f} GB/s" if seconds >= 1 else ""
    print_rank0(f"backbone: this rank's {amount} of weights in {seconds:.1f} s{speed}")


def shards(parameter: nn.Parameter) -> Iterator[tuple[int, Tensor]]:
    """(first number of the flattened parameter, this rank's memory for it and what follows); the whole of a plain
    parameter.

    Numbers beyond the parameter's end, where the last shard is longer than what is left, become zero.
    """
    p: Any = parameter
    if not hasattr(p, "ds_tensor"):
        yield 0, p.data.view(-1)
        return
    places = [(p.ds_tensor, dist.get_rank(group=p.ds_process_group))]
    if p.ds_secondary_tensor is not None:
        places.append((p.ds_secondary_tensor, dist.get_rank(group=p.ds_zero_param_process_group)))
    for tensor, rank in places:
        start = tensor.numel() * rank
        real = max(0, min(tensor.numel(), p.ds_numel - start))
        tensor.data[real:].zero_()
        if real:
            yield start, tensor.data[:real]


def _cut(start: int, out: Tensor) -> Iterator[tuple[int, Tensor]]:
    for begin in range(0, out.numel(), PIECE):
        yield start + begin, out[begin : begin + PIECE]


def _read(source: WeightSource, own: threading.local, name: str, start: int, out: Tensor) -> int:
    """Fill ``out``; ``own`` holds this thread's buffers."""
    if isinstance(source, DummySource) or read_in_place(out):
        source.read(name, start, out)
        arrival(
            out.device
        )()  # a GPU draws dummy weights after it was asked to: progress and seconds are of what is there
    else:
        if not hasattr(own, "staging"):
            own.staging = Staging(out.device)
        own.staging.send(out, lambda begin, part: source.read(name, start + begin, part))
    return out.numel() * out.element_size()


def read_in_place(out: Tensor) -> bool:
    """Whether a file can be read straight into this memory."""
    return out.is_cpu
