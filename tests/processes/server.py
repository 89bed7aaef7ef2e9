"""A Python that has imported torch, DeepSpeed, transformers and the engine already, and forks a process per request.

    python -m tests.processes.server SOCKET

A request comes from client.py, with its arguments, environment, working directory and its three standard streams.
The fork behaves as `python ARGUMENTS` would, but for what its imports cost, for modules that are imported already and
for the seed of hashes, which all forks share. Several ranks are started and watched by torchrun's own agent, of which
only the call that would start a new interpreter is replaced.
"""

import array
import atexit
import contextlib
import gc
import importlib
import json
import multiprocessing.util
import os
import pkgutil
import random
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import types
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from engine.core.privacy import protect
from tests.processes.measured_lines import attribute_lines_to
from tools.process_tree import kill_tree

protect()
os.environ.setdefault("DS_ACCELERATOR", "cpu")

import numpy  # noqa: E402
import torch.distributed.run  # noqa: E402
from torch.distributed.elastic.multiprocessing.subprocess_handler import subprocess_handler  # noqa: E402

LIBRARIES = (
    "datasets",
    "deepspeed",
    "peft",
    "rouge_score.rouge_scorer",
    "tensorboard.compat.proto.event_pb2",
    "torch._dynamo",
    "torch.utils.tensorboard",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto",
    "transformers.models.gpt_oss.modeling_gpt_oss",
    "transformers.models.llama.modeling_llama",
    "transformers.models.llama.tokenization_llama",
)
OWN = ("strict_yaml", "prompt_modules", "backbones", "clinical_tasks", "engine")
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP, signal.SIGCHLD, signal.SIGPIPE)


def fork(run: Callable[[], Any], first: Callable[[], None] = lambda: None) -> int:
    """A child in a process group of its own that runs and leaves, never returning here. -> its process id."""
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    with contextlib.suppress(OSError):
        os.setpgid(pid, pid)
    if pid:
        return pid
    code = 1
    try:
        own_state_only()
        for number in SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        first()
        code = _left(run)
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
        with contextlib.suppress(BaseException):
            sys.stderr.flush()
        os._exit(code)


def own_state_only() -> None:
    """Forget what the server would remove at its end, and draw other random numbers than other forks."""
    for finalizer in list(weakref.finalize._registry):  # type: ignore[attr-defined]
        finalizer.detach()
    multiprocessing.util._finalizer_registry.clear()  # type: ignore[attr-defined]
    random.seed()
    numpy.random.seed()


def _left(run: Callable[[], Any]) -> int:
    """Run, and do what an interpreter does at its end. -> exit code."""
    code = 0
    try:
        run()
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except KeyboardInterrupt:
        sys.excepthook(*sys.exc_info())
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    return code & 0xFF


def run_python(arguments: Sequence[str]) -> None:
    """What `python ARGUMENTS` does: a file, `-m MODULE` or `-c CODE`."""
    words = list(arguments)
    while words and words[0] in ("-u", "-B"):
        del words[0]
    sys.path[1:1] = [place for place in os.environ.get("PYTHONPATH", "").split(os.pathsep) if place]
    main = types.ModuleType("__main__")
    main.__dict__["__builtins__"] = __builtins__
    sys.modules["__main__"] = main
    match words:
        case ["-m", "torch.distributed.run", *rest]:
            torch.distributed.run.main(rest)
        case ["-m", module, *rest]:
            sys.argv, sys.path[0] = [module, *rest], os.getcwd()
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        case ["-c", code, *rest]:
            sys.argv, sys.path[0] = ["-c", *rest], ""
            exec(compile(code, "<string>", "exec"), main.__dict__)
        case [file, *rest]:
            sys.argv, sys.path[0] = [file, *rest], str(Path(file).resolve().parent)
            runpy.run_path(file, run_name="__main__")
        case []:
            raise SystemExit("a script, -m or -c is needed")


class ForkedRank:
    """What torchrun's agent asks of subprocess.Popen, of a fork."""

    def __init__(self, args: Sequence[str], env: dict[str, str], stdout: Any = None, stderr: Any = None, **_: Any):
        self.args, self.returncode = args, None

        def run() -> None:
            for stream, number in ((stdout, 1), (stderr, 2)):
                if stream is not None:
                    os.dup2(stream.fileno(), number)
            set_environment(env)
            run_python(args[1:])

        self.pid = fork(run)

    def poll(self) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        end = None if timeout is None else time.monotonic() + timeout
        while self.poll() is None:
            if end is not None and time.monotonic() > end:
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
            select.select([], [], [], 0.01)
        return self.returncode  # type: ignore[return-value]

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


subprocess_handler.Popen = ForkedRank  # type: ignore[misc, assignment]


def set_environment(env: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(env)
    attribute_lines_to(env.get("PYTEST_CURRENT_TEST", ""))


def answer(order: dict[str, Any], streams: Sequence[int]) -> int:
    """Start what a client asks for. -> process id."""

    def first() -> None:
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
        os.closerange(3, 256)
        for number in order["ignored"]:  # as a shell leaves them to what it runs in the background
            signal.signal(number, signal.SIG_IGN)
        os.chdir(order["cwd"])
        os.umask(order["umask"])
        set_environment(order["env"])

    return fork(lambda: run_python(order["arguments"]), first)


def receive(client: socket.socket) -> tuple[dict[str, Any], list[int]]:
    descriptors = array.array("i")
    piece, ancillary, _, _ = client.recvmsg(1 << 16, socket.CMSG_SPACE(3 * descriptors.itemsize))
    for _, _, content in ancillary:
        descriptors.frombytes(content)
    while not piece.endswith(b"\n"):
        more = client.recv(1 << 16)
        if not more:
            break
        piece += more
    return json.loads(piece or "{}"), list(descriptors)


def accept(client: socket.socket, clients: dict[socket.socket, int]) -> None:
    """Do what a client asks for. One that only looked whether the server is there, or that has gone, is forgotten."""
    client.settimeout(10)
    streams: list[int] = []
    try:
        order, streams = receive(client)
        if streams:
            clients[client] = answer(order, streams)
            client.sendall(f"{clients[client]}\n".encode())
            return
    except (OSError, ValueError):  # also a time-out, and half an order
        if client in clients:
            kill_tree(clients[client])
            return
    finally:
        for stream in streams:
            os.close(stream)
    client.close()


def serve(listener: socket.socket) -> None:
    """Until stdin is closed: whoever started the server has gone."""
    clients: dict[socket.socket, int] = {}
    try:
        _serve(listener, clients)
    finally:
        for pid in clients.values():
            kill_tree(pid)


def _serve(listener: socket.socket, clients: dict[socket.socket, int]) -> None:
    while True:
        ready, _, _ = select.select([0, listener, *clients], [], [], 0.01)
        if 0 in ready and not os.read(0, 1):
            return
        if listener in ready:
            accept(listener.accept()[0], clients)
        for client in (one for one in ready if one in clients):
            kill_tree(clients[client])  # a client says nothing more: it has gone
        for client, pid in list(clients.items()):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                with contextlib.suppress(OSError):
                    client.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())
                client.close()
                del clients[client]


def main() -> None:
    for name in LIBRARIES:
        importlib.import_module(name)
    for package in map(importlib.import_module, OWN):
        for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)
    gc.collect()
    gc.freeze()  # objects stay where they are: forks share their memory
    sys.executable = str(Path(sys.argv[1]).with_name("python"))  # what a fork starts is forked too
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(sys.argv[1])
    listener.listen(64)
    serve(listener)


if __name__ == "__main__":
    main()
