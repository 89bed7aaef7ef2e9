"""What a device and its links can do: configs/machines/*.yaml, or a file of your own. Peaks as the maker states
them, and the part of each to count on.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import torch

from engine.config import read_yaml, unknown_key
from engine.core import UserError, resource_folder

FOLDER = resource_folder("machines")
REACHED = ("compute", "memory", "pcie", "intra", "network")
OVERLAPPED = ("gather", "transfer", "host")
RATES = ("memory", "memory_bytes", "pcie", "intra", "network")


@dataclass(frozen=True)
class DeviceKind:
    """A kind of GPU (or CPU rank) in its usual node. Rates are per second and device, in one direction; ``network`` is
    a node's, shared by its devices.

    flops: dtype ("bfloat16", "float32") -> multiply-adds x 2 of dense matrix products. memory: bytes read or written.
        memory_bytes: what it has.
    pcie: from host memory. intra: between devices of a node. network: into a node. reach: for compute, memory, pcie,
        intra and network the part of the
    peak that a step gets. overlap: of gather, transfer and host the part that hides behind the device's kernels (1 all,
        0 nothing). latency: seconds of an
    all-gather besides its bytes. entering: seconds that the host takes for each module that is entered: ZeRO-3's hooks,
        kernel launches.
    matches: words of the name that the driver reports. source: where the peaks stand.
    """

    name: str
    flops: dict[str, float]
    memory: float
    memory_bytes: float
    pcie: float
    intra: float
    network: float
    reach: dict[str, float]
    overlap: dict[str, float] = dataclasses.field(default_factory=lambda: dict.fromkeys(OVERLAPPED, 1.0))
    latency: float = 3e-5
    entering: float = 6e-5
    matches: list[str] = dataclasses.field(default_factory=list)
    source: str = ""


def names() -> list[str]:
    return sorted(p.stem for p in FOLDER.glob("*.yaml"))


def read_kind(name: str) -> DeviceKind:
    """A kind by its name in configs/machines, or by the path of a YAML file.

    Raises:
        UserError: there is none, or the file lacks a key, has one more, or a value that is no number above zero; all at
            once.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else FOLDER / f"{name.lower()}.yaml"
    if not path.is_file():
        raise UserError(
            f"command line: --gpu: {name!r} is none of {', '.join(names())}, and no YAML file; copy one of "
            "configs/machines"
        )
    content = read_yaml(path)
    fields = {f.name: f for f in dataclasses.fields(DeviceKind)}
    problems = [f"{path}: " + unknown_key(str(key), fields) for key in content if key not in fields]
    needed = [
        n for n, f in fields.items() if f.default_factory is dataclasses.MISSING and f.default is dataclasses.MISSING
    ]
    problems += [
        f"{path}: {key}: missing; see DeviceKind in engine/distributed/hardware.py"
        for key in needed
        if key not in content
    ]
    for key in (*RATES, "latency", "entering"):
        problems += _checked(path, key, content.get(key, 1))
    for key, inner in (("flops", ("bfloat16", "float32")), ("reach", REACHED), ("overlap", OVERLAPPED)):
        table = content.get(key, {})
        if not isinstance(table, dict):
            problems.append(f"{path}: {key}: expected keys and values")
            continue
        problems += [f"{path}: {key}.{k}: missing" for k in inner if key in content and k not in table]
        problems += [f"{path}: {key}.{k}: " + unknown_key(str(k), inner) for k in table if k not in inner]
        problems += [p for k, v in table.items() for p in _checked(path, f"{key}.{k}", v, key == "overlap")]
        problems += [
            f"{path}: {key}.{k}: {v} is above 1" for k, v in table.items() if key != "flops" and (_number(v) or 0) > 1
        ]
    if problems:
        raise UserError(problems)
    numbers: dict[str, float] = {k: float(content[k]) for k in (*RATES, "latency", "entering") if k in content}
    tables: dict[str, dict[str, float]] = {
        k: {n: float(v) for n, v in content[k].items()} for k in ("flops", "reach", "overlap") if k in content
    }
    return DeviceKind(**(content | numbers | tables))


def kind_here() -> DeviceKind | None:
    """The kind of this process's GPU; None without one, or where it is not known."""
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


def _checked(path: Path, key: str, value: object, zero: bool = False) -> list[str]:
    number = _number(value)
    good = number is not None and (0 < number < float("inf") or (zero and number == 0))
    return [] if good else [f"{path}: {key}: {value!r} is no number {'from 0 up' if zero else 'above 0'}"]


def _number(value: object) -> float | None:
    try:
        return None if isinstance(value, bool) else float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
