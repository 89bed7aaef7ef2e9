"""What Linux says of this process's memory."""

from pathlib import Path


def memory_of(field: str) -> int:
    """Bytes. field: ``VmRSS``, what the process has now, or ``VmHWM``, the most that it has had."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise ValueError(f"/proc/self/status has no {field}")


def forget_peak() -> None:
    """From here on, ``VmHWM`` is the most that the process has from now."""
    Path("/proc/self/clear_refs").write_text("5")
