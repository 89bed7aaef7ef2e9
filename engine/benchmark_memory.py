"""Peaks of memory: of a GPU by torch's own count, of a process by the kernel's, which can be set back."""

import contextlib
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
        with contextlib.suppress(OSError, StopIteration):
            return next(int(line.split()[1]) * 1024 for line in STATUS.read_text().splitlines() if line.startswith("VmHWM"))
        return None


def gpu_held() -> int:
    return torch.cuda.memory_allocated() if torch.cuda.is_available() else 0


def gpu_peak() -> int:
    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0


def reset_gpu_peak() -> None:
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
