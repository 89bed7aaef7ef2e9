"""Worker processes that stay, forked from one that has imported torch, transformers and DeepSpeed: a test costs only
its own work.
"""

import gc
import multiprocessing
import os
import queue
import socket
import sys
import time
import traceback
from functools import cache
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext, SpawnContext
from typing import Any

from tests.processes.measured_lines import attribute_lines_to

TIMEOUT = 180  # seconds a job may take


def _work(rank: int, world: int, port: int, orders: Any, answers: Any) -> None:
    os.environ |= {
        "RANK": str(rank),
        "WORLD_SIZE": str(world),
        "LOCAL_RANK": str(rank),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    import distributed_jobs
    import torch

    torch.set_num_threads(1)
    gc.freeze()  # collections, of which every backbone's end makes one, pass over what was imported
    while (order := orders.get()) is not None:
        test, name, arguments = order
        attribute_lines_to(test)
        try:
            answers.put((rank, True, getattr(distributed_jobs, name)(**arguments)))
        except BaseException:
            answers.put((rank, False, traceback.format_exc()))


@cache
def _context() -> ForkServerContext | SpawnContext:
    """Start the process that ranks are forked from. Python 3.11 does not tell it where modules lie."""
    if os.environ.get("NEW_INTERPRETERS"):
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["imported_libraries"])
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)
    try:
        forkserver.ensure_running()
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before
    return context


class Pool:
    """``world`` ranks in one gloo group; ``run`` calls a function of jobs.py on all of them and returns the answers
    in rank order.
    """

    def __init__(self, world: int):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        context = _context()
        self.world, self._answers = world, context.Queue()
        self._orders = [context.Queue() for _ in range(world)]
        self._processes = [
            context.Process(target=_work, args=(r, world, port, self._orders[r], self._answers), daemon=True)
            for r in range(world)
        ]
        for process in self._processes:
            process.start()

    def run(self, name: str, **arguments: Any) -> list[Any]:
        for orders in self._orders:
            orders.put((os.environ.get("PYTEST_CURRENT_TEST", ""), name, arguments))
        out: list[Any] = [None] * self.world
        failed: list[str] = []
        try:
            for _ in range(self.world):  # of all, or the next job would be given what is left of this one
                rank, good, out[rank] = self._next()
                if not good:
                    failed.append(f"rank {rank}:\n{out[rank]}")
        except TimeoutError:
            assert not failed, failed[0]  # the others wait for this one
            raise
        assert not failed, failed[0]
        return out

    def _next(self) -> tuple[int, bool, Any]:
        deadline = time.monotonic() + TIMEOUT
        while time.monotonic() < deadline:
            try:
                return self._answers.get(timeout=1)
            except queue.Empty:
                dead = [p.exitcode for p in self._processes if not p.is_alive()]
                assert not dead, f"a worker died with exit code {dead}"
        raise TimeoutError(f"no answer in {TIMEOUT} s")

    def close(self) -> None:
        for orders in self._orders:
            orders.put(None)
        for process in self._processes:
            process.join(20)
            if process.is_alive():
                process.kill()
