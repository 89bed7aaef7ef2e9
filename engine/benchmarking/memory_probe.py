"""What is measured around a step: peaks of memory, and how fast the machine itself is at that moment.

A GPU's memory is torch's own count, a process's the kernel's, which can be set back.
"""

import contextlib
import time
from pathlib import Path

import torch

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class HostPeak:
    """Most memory that this process holds from here on."""

    def __init__(self) -> None:
        with contextlib.suppress(OSError):  # where it cannot be set back, the peak is the process's since its start
            CLEAR.write_text("5")

    def peak(self) -> int | None:
        """Bytes; None where the kernel does not say."""
        with contextlib.suppress(OSError):
            for line in STATUS.read_text().splitlines():
                if line.startswith("VmHWM"):
                    return int(line.split()[1]) * 1024
        return None


def gpu_held() -> int:
    return torch.cuda.memory_allocated() if torch.cuda.is_available() else 0


def gpu_peak() -> int:
    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0


def reset_gpu_peak() -> None:
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


class Probe:
    """A matrix product of a fixed size: it takes longer when clocks are lower or neighbours busier, whatever the
    code under measurement does.
    """

    def __init__(self, device: torch.device):
        self.on_gpu = device.type == "cuda"
        size, dtype = (8192, torch.bfloat16) if self.on_gpu else (512, torch.float32)
        self.a = torch.ones(size, size, device=device, dtype=dtype)

    def seconds(self) -> float:
        """Of the faster of two."""
        return min(self._once(), self._once())

    def _once(self) -> float:
        begin = time.perf_counter()
        torch.mm(self.a, self.a)
        if self.on_gpu:
            torch.cuda.synchronize()
        return time.perf_counter() - begin
