"""What a job runs on: its nodes and ranks, and the memory that is free on them."""

import socket
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from strict_yaml import counted

if TYPE_CHECKING:  # plan checks its flags before torch is loaded
    import torch

GB = 1e9


@dataclass(frozen=True)
class Machine:
    """device: "cuda" or "cpu". device_bytes: free on each rank's device. host_bytes: free on each node, for all of
    its ranks; on CPUs the only memory.
    """

    nodes: int
    ranks_per_node: int
    device: str
    device_bytes: int
    host_bytes: int

    @property
    def world(self) -> int:
        return self.nodes * self.ranks_per_node


def free_memory_text(m: Machine) -> str:
    """A machine's free memory, in words."""
    host = f"{m.host_bytes / GB:.1f} GB of a host ({counted(m.ranks_per_node, 'rank')})"
    if m.device == "cpu":
        return host
    return f"{m.device_bytes / GB:.1f} GB of a device and {host}"


def machine_here(device: "torch.device") -> Machine:
    """What this job runs on, alike on every rank. A collective."""
    import torch

    from engine.distributed.process_group import gather_objects

    free = 0
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
    every = gather_objects((socket.gethostname(), free, free_host_bytes()))
    hosts, on_devices, on_hosts = zip(*every, strict=True)
    ranks = Counter(hosts)
    return Machine(len(ranks), max(ranks.values()), device.type, min(on_devices), min(on_hosts))


def free_host_bytes(proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> int:
    """Memory that this process and its like may still take: of the host, or of the job's control group where that
    is less.
    """
    available = _number_after("MemAvailable", proc / "meminfo") * 1024
    own = _control_group(proc)
    if own is None:
        return available
    folder = cgroups / own.strip("/")
    while folder != cgroups.parent:  # a limit may stand further up
        try:
            limit = (folder / "memory.max").read_text().strip()
            if limit != "max":
                inactive = _number_after("inactive_file", folder / "memory.stat")
                available = min(available, int(limit) - int((folder / "memory.current").read_text()) + inactive)
        except OSError:
            pass
        folder = folder.parent
    return max(available, 0)


def _number_after(word: str, file: Path) -> int:
    """The number in the first line that begins with ``word``; 0 where there is no such line.

    Raises:
        OSError: the file cannot be read.
    """
    for line in file.read_text().splitlines():
        if line.startswith(word):
            return int(line.split()[1])
    return 0


def _control_group(proc: Path) -> str | None:
    """This process's control group (version 2); None where there is none."""
    try:
        lines = (proc / "self/cgroup").read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith("0::"):
            return line.removeprefix("0::")
    return None
