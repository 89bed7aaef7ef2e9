"""What a device and its links can do: configs/machines/*.yaml, or a file of your own. Peaks as the maker states
them, and the part of each to count on.
"""

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from engine.config import at_line, key_lines, read_yaml
from engine.core import UserError, resource_folder
from strict_yaml import Problem, about, build, fields_of

FOLDER = resource_folder("machines")
REACHED = ("compute", "memory", "pcie", "intra", "network")
OVERLAPPED = ("gather", "transfer", "host")
SECONDS = "seconds, such as 3e-5"

_needed = partial(about, missing="see configs/machines/h100.yaml")
_bytes_a_second = partial(_needed, above=0, unit="bytes per second, such as 3.35e+12")


@dataclass(frozen=True)
class DeviceKind:
    """A kind of GPU (or CPU rank) in its usual node. Rates are per second and device, in one direction; ``network`` is
    a node's, shared by its devices.
    """

    name: str = field(metadata=_needed("Name of the kind of device."))
    flops: dict[str, float] = field(
        metadata=_needed(
            "dtype -> floating-point operations per second of dense matrix products (2 per multiply-add).",
            inner=("bfloat16", "float32"),
            above=0,
            unit="operations per second, such as 9.89e+14",
        )
    )
    memory: float = field(metadata=_bytes_a_second("Bytes per second read from or written to the device's own memory."))
    memory_bytes: float = field(
        metadata=_needed("Capacity of the device's memory in bytes.", above=0, unit="bytes, such as 8e+10")
    )
    pcie: float = field(metadata=_bytes_a_second("Bytes per second from host memory."))
    intra: float = field(metadata=_bytes_a_second("Bytes per second between devices of a node."))
    network: float = field(metadata=_bytes_a_second("Bytes per second into a node."))
    reach: dict[str, float] = field(
        metadata=_needed("Fraction of each peak that a training step reaches.", inner=REACHED, above=0, at_most=1)
    )
    overlap: dict[str, float] = field(
        default_factory=lambda: dict.fromkeys(OVERLAPPED, 1.0),
        metadata=about(
            "Fraction of gathers, transfers and host time that overlaps with the device's kernels (1: all, 0: none).",
            inner=OVERLAPPED,
            at_least=0,
            at_most=1,
        ),
    )
    latency: float = field(default=3e-5, metadata=about("Seconds of latency of an all-gather.", above=0, unit=SECONDS))
    entering: float = field(
        default=6e-5,
        metadata=about(
            "Seconds of host time for each module that is entered (hooks of ZeRO-3, kernel launches).",
            above=0,
            unit=SECONDS,
        ),
    )
    matches: list[str] = field(
        default_factory=list, metadata=about("Words in the device name that the driver reports.")
    )
    source: str = field(default="", metadata=about("Where the peak values are published."))


def names() -> list[str]:
    return sorted(p.stem for p in FOLDER.glob("*.yaml"))


def read_kind(name: str) -> DeviceKind:
    """A kind by its name in configs/machines, or by the path of a YAML file.

    Raises:
        UserError: there is none, or the file lacks a key, has an unknown one, or a value that is not a number above
            zero; all at once.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else FOLDER / f"{name.lower()}.yaml"
    if not path.is_file():
        raise UserError(
            f"command line: --gpu: must be one of {', '.join(names())}, or a YAML file (copy one of configs/machines); "
            f"got {name!r}"
        )
    kind, problems = build(DeviceKind, read_yaml(path))
    if problems:
        lines = key_lines(path)
        raise UserError([at_line(_line(problem), path, problem.key, lines) for problem in problems])
    return kind


def _line(problem: Problem) -> str:
    """What is wrong, with the key; a value that is no number with its unit."""
    unit = fields_of(DeviceKind)[problem.path[0]].metadata.get("unit") if problem.kind != "unknown" else None
    return problem.line.replace("must be a number;", f"must be a number of {unit};") if unit else problem.line


def kind_here() -> DeviceKind | None:
    """The kind of this process's GPU; None without one, or where it is not known."""
    import torch  # plan reads a kind's file before torch is loaded

    if not torch.cuda.is_available():
        return None
    found = torch.cuda.get_device_name()
    every = [read_kind(name) for name in names()]
    return next((k for k in every if any(word in found for word in k.matches)), None)


def peak_here(dtype: str) -> float | None:
    """Operations a second that the maker of this process's GPU states for dense products; None where it is not
    known.
    """
    kind = kind_here()
    return None if kind is None else kind.flops.get(dtype)
