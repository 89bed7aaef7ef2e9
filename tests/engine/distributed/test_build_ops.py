"""A job that was killed while DeepSpeed's CPU collectives were compiled: the next one starts; a build that runs is
waited for.
"""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from engine.core.errors import UserError
from engine.distributed import build_ops
from engine.distributed.build_ops import OURS, QUIET, build_folder, without_build_lines

pytestmark = pytest.mark.slow

COMPILES = """
import sys, time
from pathlib import Path
from torch.utils.file_baton import FileBaton
from engine.distributed.build_ops import build_folder
folder = Path(sys.argv[1])
with build_folder(folder):
    assert FileBaton(folder / "lock").try_acquire()
    print("compiles", flush=True)
    time.sleep(600)
"""


@contextmanager
def compiling(folder: Path, project: Path) -> Iterator[subprocess.Popen[str]]:
    """A process of this program that holds torch's lock, as while it compiles."""
    command = [sys.executable, "-c", COMPILES, str(folder)]
    with subprocess.Popen(command, cwd=project, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None and process.stdout.readline() == "compiles\n"
            yield process
        finally:
            process.kill()


def old(*files: Path) -> None:
    for file in files:
        os.utime(file, (time.time() - QUIET - 5,) * 2)


def test_the_lock_of_a_killed_build_is_removed_and_that_of_a_running_one_stays(tmp_path: Path, project: Path) -> None:
    lock = tmp_path / "lock"
    with compiling(tmp_path, project) as process:
        with build_folder(tmp_path):  # another rank: it may go on to torch's own wait
            assert lock.exists()
        assert lock.exists()
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert lock.exists()
    with build_folder(tmp_path):
        assert not lock.exists()
    assert (tmp_path / OURS).read_bytes() == b""


def test_what_another_program_builds_is_waited_for(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    lock.touch()
    done = threading.Timer(0.5, lock.unlink)
    done.start()
    with build_folder(tmp_path):
        assert not lock.exists()
    done.join()


def test_a_lock_that_nobody_will_remove_is_named(tmp_path: Path) -> None:
    lock, built = tmp_path / "lock", tmp_path / "build.ninja"
    lock.touch()
    built.touch()
    old(lock, built)
    with pytest.raises(UserError, match=f"TORCH_EXTENSIONS_DIR: {lock} .* 10 minutes; if none does, remove that file"):
        with build_folder(tmp_path):
            pytest.fail("nothing may build here")
    assert lock.exists()


def test_a_file_system_without_locks_takes_nothing_for_a_killed_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(handle: int, how: int) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(build_ops.fcntl, "flock", refused)
    (tmp_path / OURS).write_bytes(b"x")
    (tmp_path / "lock").touch()
    old(tmp_path / "lock")
    with pytest.raises(UserError, match="remove that file"):
        with build_folder(tmp_path):
            pytest.fail("nothing may build here")
    assert (tmp_path / "lock").exists()


def test_the_collectives_load_after_a_build_was_killed(tmp_path: Path, project: Path) -> None:
    """With torch's own lock and what is compiled here already. Without the mending this waits for ever."""
    built = Path(os.environ["TORCH_EXTENSIONS_DIR"]) / "deepspeed_shm_comm"
    if not built.exists():
        pytest.skip("a machine with a GPU uses nccl: DeepSpeed's CPU collectives are NOT tested")
    copied = tmp_path / built.name
    shutil.copytree(built, copied)  # times kept: nothing is compiled again
    (copied / "lock").touch()
    (copied / OURS).write_bytes(b"x")
    env = os.environ | {"TORCH_EXTENSIONS_DIR": str(tmp_path)}
    command = [sys.executable, "-m", "engine.distributed.build_ops"]
    done = subprocess.run(command, env=env, cwd=project, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0 and "are built" in done.stdout, done.stderr
    assert not (copied / "lock").exists() and (copied / OURS).read_bytes() == b""


def test_deepspeed_does_not_say_on_every_rank_that_it_was_built(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RuntimeError), without_build_lines():
        print("something else")
        print("DeepSpeed deepspeed.ops.comm.deepspeed_shm_comm_op built successfully")
        raise RuntimeError
    assert capsys.readouterr().out == "something else\n"
