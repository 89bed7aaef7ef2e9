"""What runs through the fork server ends, prints and cleans up as it would in an interpreter of its own."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.processes.fork_server import ROOT, ForkServer
from tools.process_tree import is_running, kill_tree, wait_until_gone

Run = Callable[..., subprocess.CompletedProcess[str]]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server() -> Iterator[ForkServer]:
    found = ForkServer()
    yield found
    found.stop()
    assert not Path(found.socket).parent.exists()


@pytest.fixture(autouse=True, params=["heeded", "ignored"])
def ctrl_c(request: pytest.FixtureRequest) -> Iterator[str]:
    """As a process finds it in the foreground, and in the background of a shell."""
    chosen = {"heeded": signal.default_int_handler, "ignored": signal.SIG_IGN}[request.param]
    before = signal.signal(signal.SIGINT, chosen)
    yield request.param
    signal.signal(signal.SIGINT, before)


@pytest.fixture(params=["forked", "new"])
def run(request: pytest.FixtureRequest, server: ForkServer, tmp_path: Path) -> Run:
    """In a fork, and in a new interpreter, in an empty folder."""
    python = server.python() if request.param == "forked" else [sys.executable]

    def start(*arguments: str, **how: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*python, *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=60, **how)

    return start


@pytest.mark.parametrize(
    ("code", "ended", "told"),
    [
        ("print('out')", 0, ""),
        ("raise SystemExit(3)", 3, ""),
        ("raise SystemExit('why')", 1, "why"),
        ("raise SystemExit(256)", 0, ""),
        ("1 / 0", 1, "ZeroDivisionError: division by zero"),
        ("import os; os._exit(5)", 5, ""),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL, ""),
        ("import os, signal; os.kill(os.getpid(), signal.SIGTERM)", -signal.SIGTERM, ""),
        ("import os, signal; os.kill(os.getpid(), signal.SIGINT)", -signal.SIGINT, "KeyboardInterrupt"),
        ("import atexit, sys; atexit.register(lambda: print('last', file=sys.stderr))", 0, "last"),
    ],
)
def test_a_process_ends_alike(run: Run, ctrl_c: str, code: str, ended: int, told: str) -> None:
    if ctrl_c == "ignored" and "SIGINT" in code:
        ended, told = 0, ""
    done = run("-c", code)
    assert done.returncode == ended
    assert done.stdout == ("out\n" if "'out'" in code else "")
    assert done.stderr.splitlines()[-1:] == ([told] if told else [])


def test_arguments_streams_folder_mask_and_environment_are_the_callers(run: Run, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(
        "import os, sys\n"
        "open('made', 'w').close()\n"
        "print(__name__, sys.argv, sys.path[0], os.getcwd(), os.environ.get('MINE'), sys.stdin.read())\n"
    )
    done = run("script.py", "a", "--b=1", input="typed", umask=0o027, env=os.environ | {"MINE": "x"})
    assert done.stdout == f"__main__ ['script.py', 'a', '--b=1'] {tmp_path} {tmp_path} x typed\n", done.stderr
    assert (tmp_path / "made").stat().st_mode & 0o777 == 0o640


def test_temporary_folders_go_with_the_process(run: Run, tmp_path: Path) -> None:
    code = "import tempfile; kept = tempfile.TemporaryDirectory(dir='.'); print(kept.name)"
    assert run("-c", code).returncode == 0 and not list(tmp_path.iterdir())


def test_what_a_fork_starts_is_forked_too(server: ForkServer) -> None:
    code = (
        "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import sys; print(\"torch\" in sys.modules)'])"
    )
    done = subprocess.run([*server.python(), "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "True\n", done.stderr


def test_forks_draw_different_numbers(server: ForkServer) -> None:
    code = "import random, numpy; print(random.random(), numpy.random.rand())"
    command = [*server.python(), "-c", code]
    first, second = (subprocess.run(command, capture_output=True, text=True, timeout=60).stdout for _ in range(2))
    assert len(first.split()) == 2 and not set(first.split()) & set(second.split())


def test_a_fork_whose_client_has_gone_is_killed_with_what_it_started(server: ForkServer, tmp_path: Path) -> None:
    code = "import subprocess, sys; p = subprocess.Popen(['sleep', '600']); print(p.pid, flush=True); p.wait()"
    command, file = [*server.python(), "-c", code], tmp_path / "pid"
    with subprocess.Popen(
        command, cwd=ROOT, env=os.environ | {"FORK_PID_FILE": str(file)}, stdout=subprocess.PIPE, text=True
    ) as client:
        assert client.stdout is not None
        started = int(client.stdout.readline())
        fork = int(file.read_text())
        assert is_running(fork) and is_running(started)
        client.kill()
    wait_until_gone([fork, started])


def test_a_fork_can_be_killed_and_its_client_ends_so(server: ForkServer, tmp_path: Path) -> None:
    command, file = [*server.python(), "-c", "import time; time.sleep(600)"], tmp_path / "pid"
    with subprocess.Popen(command, env=os.environ | {"FORK_PID_FILE": str(file)}) as client:
        while not (file.exists() and file.read_text()):
            time.sleep(0.01)
        wait_until_gone(kill_tree(int(file.read_text())))
        assert client.wait(30) == -signal.SIGKILL


@pytest.mark.parametrize("sent", [b"", b"{", b'{"arguments": []}\n'])
def test_a_client_that_says_nothing_of_use_ends_nobody_else(server: ForkServer, sent: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(server.socket)
        client.send(sent)
    done = subprocess.run([*server.python(), "-c", "print(1)"], capture_output=True, text=True, timeout=60)
    assert done.stdout == "1\n"
