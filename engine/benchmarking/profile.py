"""``benchmark --profile``: a torch profiler trace of a few steps, and a page on it: top operators, gaps between
kernels, gathers that nothing hides.

The trace is Chrome's (chrome://tracing, Perfetto), gzipped. It holds names and shapes of operators and times; no
tensor's content, no source lines, no token: nothing of a note.
"""

import contextlib
import gzip
import json
import shutil
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from engine.core import write_atomic
from strict_yaml import counted

PAGE, FIRST, SHOWN = "profile.md", "0-0", 15
CONTENT = (
    "Rank 0's, of a few steps after the measured ones. A trace opens in chrome://tracing or Perfetto; it holds "
    "names, shapes and times of operators, no "
    "content."
)
COLLECTIVE = ("nccl", "gloo")
Span = tuple[float, float]


@contextlib.contextmanager
def profiled(folder: Path, name: str, label: str, is_main_process: bool, device: torch.device) -> Iterator[None]:
    """Trace what runs within on rank 0. The call named FIRST begins a folder's page, the others add to it."""
    from torch.profiler import ProfilerActivity, profile

    if not is_main_process:
        yield
        return
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device.type == "cuda")
    with profile(activities=activities, record_shapes=True, with_stack=False, profile_memory=False) as found:
        yield
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if name == FIRST:  # of an earlier call
        for file in (folder / PAGE, *folder.glob("trace-*.json.gz")):
            file.unlink(missing_ok=True)
    plain, packed = folder / f".trace-{name}.json", folder / f"trace-{name}.json.gz"
    try:
        found.export_chrome_trace(str(plain))
        plain.chmod(0o600)
        with plain.open("rb") as source, gzip.open(packed, "wb") as target:
            shutil.copyfileobj(source, target)
        packed.chmod(0o600)
        events = json.loads(plain.read_text())["traceEvents"]
    finally:
        plain.unlink(missing_ok=True)
    page = folder / PAGE
    begun = ["# Where a step's time goes", "", CONTENT]
    if page.exists():
        begun = page.read_text().splitlines()
    averages = found.key_averages()
    told = summary(averages, events, device.type == "cuda")
    lines = [*begun, "", f"## {label or 'The case'} ({packed.name})", "", *told]
    write_atomic(page, "\n".join(lines) + "\n")


def summary(averages: Iterable[Any], events: Sequence[dict[str, Any]], on_gpu: bool) -> list[str]:
    """The part of a page on one trace, rank 0's."""
    device, own = ("GPU", "self_device_time_total") if on_gpu else ("CPU", "self_cpu_time_total")
    timed, total = [], 0.0
    for average in averages:
        time = getattr(average, own, 0)
        if time > 0:
            timed.append((time, average))
            total += time
    timed.sort(key=lambda pair: -pair[0])
    out = [f"| operator | calls | self {device} ms | share |", "|---|---|---|---|"]
    for time, average in timed[:SHOWN]:
        out.append(f"| `{average.key[:80]}` | {average.count} | {time / 1e3:.1f} | {time / total:.1%} |")
    spans = _kernels(events)
    if on_gpu and spans:
        return [*out, "", *gaps(spans)]
    without = (
        "No GPU: there are no launches to leave gaps. The time blocked on gathers is the phase `gather wait` of "
        "benchmark.md."
    )
    return [*out, "", without]


def _kernels(events: Sequence[dict[str, Any]]) -> list[tuple[str, float, float]]:
    """Name, begin and end, in microseconds, of what a GPU did."""
    out = []
    for event in events:
        if event.get("ph") == "X" and event.get("cat") in ("kernel", "gpu_memcpy", "gpu_memset"):
            out.append((event["name"], event["ts"], event["ts"] + event["dur"]))
    return out


def gaps(kernels: Sequence[tuple[str, float, float]]) -> list[str]:
    """Idle time of a GPU between its kernels, and the time of collectives that no other kernel covers; times in
    microseconds.
    """
    collectives: list[Span] = []
    others: list[Span] = []
    for name, begin, end in kernels:
        if _collective(name):
            collectives.append((begin, end))
        else:
            others.append((begin, end))
    every, gathering, computing = merged([*collectives, *others]), merged(collectives), merged(others)
    whole = every[-1][1] - every[0][0]
    between = [after[0] - before[1] for before, after in pairwise(every)]
    exposed = length(gathering) - overlap(gathering, computing)
    idle = sum(between)
    return [
        f"- Idle between kernels (launch gaps): {idle / 1e3:.1f} of {whole / 1e3:.1f} ms ({idle / whole:.1%}) in "
        f"{counted(len(between), 'gap')}, the longest {max(between, default=0.0) / 1e3:.2f} ms",
        (
            f"- Collectives: {length(gathering) / 1e3:.1f} ms, of which {exposed / 1e3:.1f} ms "
            f"({exposed / whole:.1%} of the whole) exposed: nothing else ran"
        ),
    ]


def merged(spans: Iterable[Span]) -> list[Span]:
    """Their union, in order."""
    out: list[Span] = []
    for begin, end in sorted(spans):
        if out and begin <= out[-1][1]:
            out[-1] = (out[-1][0], max(out[-1][1], end))
        else:
            out.append((begin, end))
    return out


def length(spans: Sequence[Span]) -> float:
    return sum(end - begin for begin, end in spans)


def overlap(a: Sequence[Span], b: Sequence[Span]) -> float:
    """Time that two unions share."""
    total, i, j = 0.0, 0, 0
    while i < len(a) and j < len(b):
        total += max(0.0, min(a[i][1], b[j][1]) - max(a[i][0], b[j][0]))
        if a[i][1] < b[j][1]:
            i += 1
        else:
            j += 1
    return total


def _collective(name: str) -> bool:
    return any(word in name.lower() for word in COLLECTIVE)
