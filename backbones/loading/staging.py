"""From the host to a device through two pinned buffers that are used again and again.

A copy from pageable memory goes through the driver's own small buffer, at a few GB/s; one from pinned memory is as fast
as the bus. Pinning is slow, and pinned memory is lost to other programs. So two small buffers are pinned, however large
the weights are.
"""

from collections.abc import Callable

import torch
from torch import Tensor

BUFFER = 8 << 20  # bytes of one buffer; a multiple of every dtype's size


class Staging:
    """Two buffers of one thread: one is filled while the other is copied.

    Args:
        device: where the copies go. On a CPU nothing is pinned, and copies are done when they return.
        size: bytes of a buffer.
    """

    def __init__(self, device: torch.device, size: int = BUFFER):
        self.device = device
        pinned = device.type == "cuda"
        self._buffers = [torch.empty(size, dtype=torch.uint8, pin_memory=pinned) for _ in range(2)]

    def send(self, out: Tensor, read: Callable[[int, Tensor], None]) -> None:
        """Fill ``out``, which is there when this returns.

        Args:
            out: 1-D, of any stride and dtype, on the device.
            read: takes a number's place in ``out`` and memory on the host for it and those after it, and fills that
                memory.
        """
        count = self._buffers[0].numel() // out.element_size()
        waits: list[Callable[[], None]] = []
        for turn, begin in enumerate(range(0, out.numel(), count)):
            if turn >= 2:
                waits[turn - 2]()  # this buffer's last part is still on its way until then
            part = out[begin : begin + count]
            staged = self._buffers[turn % 2][: part.numel() * part.element_size()].view(part.dtype)
            read(begin, staged)
            part.copy_(staged, non_blocking=True)
            waits.append(arrival(self.device))
        for wait in waits[-2:]:
            wait()


def arrival(device: torch.device) -> Callable[[], None]:
    """Waits for all that this thread has asked of the device until now."""
    if device.type != "cuda":
        return lambda: None
    event = torch.cuda.Event(blocking=True)  # the thread sleeps: the others need its core
    event.record(torch.cuda.current_stream(device))  # a new thread's current device is 0, whatever its rank's is

    def wait() -> None:
        with torch.cuda.device(device):  # to wait on another's would take memory there
            event.synchronize()

    return wait
