"""Compile and load what DeepSpeed would otherwise build inside the first run: its CPU collectives. No GPU: one minute,
once.

    python -m engine.distributed.build_ops

torch marks a build with a file named ``lock`` in the build's folder, and waits as long as it is there. A process that
was killed while it compiled leaves it, and no later one would ever start. Here a second lock, of the kernel, which ends
with its process, tells a build that runs from one that was killed.
"""

import contextlib
import fcntl
import io
import os
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from engine.core import CODE_CACHES, UserError, library_folder, protect

QUIET = 600.0  # seconds without a change in a build's folder after which nobody builds there; the compilation takes 60
OURS = "loading"  # beside torch's lock: held while a process of this program loads, and there once one was killed


def main() -> None:
    protect()
    try:
        build_collectives()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def build_collectives() -> None:
    """Into TORCH_EXTENSIONS_DIR; does nothing on a machine with a GPU, where nccl is used.

    Raises:
        UserError: another program's build in the same folder does not end.
    """
    import torch

    if torch.cuda.is_available():
        return
    os.environ["DS_ACCELERATOR"] = "cpu"
    load_cpu_collectives(announce=True)
    print("DeepSpeed's CPU collectives are built")


def load_cpu_collectives(announce: bool) -> None:
    """Before DeepSpeed does it, which then finds them loaded. For a process whose DeepSpeed works on CPUs.

    Args:
        announce: print a line where they have to be compiled first.

    Raises:
        UserError: another program's build in the same folder does not end.
    """
    from deepspeed.ops.op_builder.cpu import ShareMemCommBuilder

    builder, name = ShareMemCommBuilder(), "TORCH_EXTENSIONS_DIR"
    root = os.environ.setdefault(name, str(library_folder(CODE_CACHES[name])))
    folder = Path(root) / builder.name
    if announce and not any(folder.glob("*.so")):
        print("compiling DeepSpeed's CPU collectives, once: about a minute", flush=True)
    with build_folder(folder):
        builder.load(verbose=False)


@contextlib.contextmanager
def without_build_lines() -> Iterator[None]:
    """Within, DeepSpeed's "… built successfully" is not printed: each rank says so whenever it loads what was built
    long ago. All else is printed at the end.
    """
    held = io.StringIO()
    try:
        with contextlib.redirect_stdout(held):
            yield
    finally:
        for line in held.getvalue().splitlines():
            if not re.fullmatch(r"DeepSpeed \S+ built successfully", line):
                print(line, flush=True)


@contextlib.contextmanager
def build_folder(folder: Path) -> Iterator[None]:
    """Within, torch may build in ``folder``: its lock is gone, or that of a process of this program that is alive.

    Raises:
        UserError: torch's lock is there, not from this program, and nothing has changed in ``folder`` for ten minutes.
        OSError: ``folder`` cannot be written to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # its text: somebody loads, or was killed before the end
    handle = os.open(folder / OURS, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if _locked(handle, fcntl.LOCK_EX | fcntl.LOCK_NB):
            if os.pread(handle, 1, 0):
                (folder / "lock").unlink(missing_ok=True)
            _wait_for_others(folder)
        _locked(handle, fcntl.LOCK_SH)  # any number of ranks load at once: torch lets one of them build
        os.pwrite(handle, b"x", 0)
        yield
        _locked(handle, fcntl.LOCK_UN)
        if _locked(handle, fcntl.LOCK_EX | fcntl.LOCK_NB):  # the last to leave
            os.ftruncate(handle, 0)
    finally:
        os.close(handle)


def _locked(handle: int, how: int) -> bool:
    """False: another process has it. A file system without locks gives it to all."""
    try:
        fcntl.flock(handle, how)
    except BlockingIOError:
        return False
    except OSError:
        os.ftruncate(handle, 0)  # so nothing is taken for a killed build
    return True


def _wait_for_others(folder: Path) -> None:
    lock = folder / "lock"
    while lock.exists():
        with contextlib.suppress(OSError):  # what a build removes
            changed = max(file.stat().st_mtime for file in (lock, *folder.iterdir()) if file.name != OURS)
            if time.time() - changed > QUIET:
                raise UserError(
                    f"TORCH_EXTENSIONS_DIR: {lock} says that another program compiles there, but nothing has changed "
                    f"for {QUIET / 60:.0f} minutes; if none does, remove that file"
                )
        time.sleep(0.2)


if __name__ == "__main__":
    main()
