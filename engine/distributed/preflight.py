"""What can be known to fail before anything starts: folders that cannot be written, disks without room, releases
with known faults.
"""

import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from engine.config import RunConfig, expand_or_tell
from engine.core import LIBRARIES, UserError, is_creatable, library_folder, nearest_existing, size_text

# oldest release that this project was run on; before deepspeed's, faults are known
OLDEST = {
    "deepspeed": (
        (0, 19, 8),
        "in older releases, coalesced all-gathers race on gloo and frozen parameters fail under recomputation",
    ),
    "transformers": ((5, 17, 0), "older releases were not tested; attention functions and weight loading may differ"),
    "torch": ((2, 11, 0), "older releases were not tested; the operators of flash attention may differ"),
}
# the releases of requirements.txt, which the tests run on
TESTED = {"deepspeed": (0, 19, 8), "transformers": (5, 23, 0), "torch": (2, 13, 0)}
ROOM = 200_000_000  # bytes that a run's logs, predictions and prompts of a pocket size take at most


OUTPUTS = ("command line: --output", "command line: --png")
# what a command writes to, as its user names it: a training run its own folder, an evaluation into a run that is there
Writes = Sequence[Literal["run_dir", "--run", "data.cache"]]
TRAINS: Writes = ("run_dir", "data.cache")


def preflight_problems(config: RunConfig, checkpoint_bytes: int, writes: Writes = TRAINS) -> list[str]:
    """Everything found, with its fix. Writes nothing.

    Args:
        checkpoint_bytes: about, of one. writes: only these are looked at.
    """
    from importlib import metadata  # only commands that start a run ask for releases

    folders = {
        "run_dir": (config.run_dir, ROOM + (config.checkpoint.keep + 1) * checkpoint_bytes),
        "--run": (config.run_dir, ROOM),
        "data.cache": (config.data.cache, ROOM),
    }
    out: list[str] = []
    for key in writes:
        folder, wanted = folders[key]
        path = expand_or_tell(folder, key, out)
        out += [] if path is None else room_for(key, path, wanted)
    for name, (oldest, why) in OLDEST.items():
        found = metadata.version(name)
        if _numbers(found) < oldest:
            out.append(
                f"{name} {found}: {_text(oldest)} or newer is needed: {why}. Fix: pip install -r requirements.txt"
            )
    return out


def older_than_tested() -> list[str]:
    """A warning for each library that is supported and older than the release that the tests run on."""
    from importlib import metadata

    out = []
    for name, (oldest, _) in OLDEST.items():
        found = metadata.version(name)
        if oldest <= _numbers(found) < TESTED[name]:
            out.append(f"WARNING {name} {found} is supported; the tests run on {_text(TESTED[name])}")
    return out


SYSTEM = ("/proc", "/sys")  # file systems of the kernel


def room_for(key: str, folder: Path, wanted: int) -> list[str]:
    """What is wrong with a folder that will be made and written to, ``wanted`` bytes."""
    there = nearest_existing(folder)
    if not there.is_dir():
        of_flag = key in OUTPUTS and there != folder.absolute()
        return [f"{key}: {there} is a file; name a {'place inside a folder' if of_flag else 'folder'}"]
    if not is_creatable(folder):
        fix = f"name another folder (--{key.removeprefix('command line: --')}=FOLDER)"
        if key == "--run":
            fix = "copy the run to a folder of yours"
        return [f"{key}: {folder}: {there} cannot be written to by this user; {fix}, or ask for write permission"]
    if any(there.is_relative_to(system) for system in SYSTEM):  # root may write there, but not files of its own
        return [f"{key}: {folder}: nothing can be written there; name another place"]
    usage = shutil.disk_usage(there)
    if not usage.total:  # a file system that does not tell
        return []
    free = usage.free
    if not free:
        return [f"{key}: {folder}: nothing can be written there, it has no free space; make room or name another disk"]
    if free < wanted:
        needed = f"{size_text(free)} are free there, {size_text(wanted)} are needed"
        return [f"{key}: {folder}: {needed}; make room or name another disk"]
    return []


def _text(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


def output_problems(flags: Mapping[str, str]) -> list[str]:
    """What is wrong with the files and folders that a command names to write to. Writes nothing."""
    out: list[str] = []
    for key in OUTPUTS:
        flag = flags.get(key.removeprefix("command line: --"))
        path = expand_or_tell(flag, key, out) if flag else None
        if path is not None and path.exists() and not path.is_dir():
            if not os.access(path, os.W_OK):
                out.append(f"{key}: {path} cannot be written to by this user; name another place")
        elif path is not None:
            out += room_for(key, path, 0)
    return out


def may_have_gpu(devices: Path = Path("/dev")) -> bool:
    """Whether a GPU's driver is on this machine (NVIDIA's, AMD's, WSL's); without torch, which finds none otherwise."""
    return any((devices / name).exists() for name in ("nvidiactl", "kfd", "dxg"))


def library_problems(with_gpu: bool) -> list[str]:
    """What keeps libraries from compiling: triton on a GPU, DeepSpeed's CPU collectives elsewhere. Writes nothing."""
    name = "TRITON_CACHE_DIR" if with_gpu else "TORCH_EXTENSIONS_DIR"
    folder = Path(os.environ[name]) if os.environ.get(name) else library_folder(LIBRARIES[name])
    if is_creatable(folder):
        return []
    there = nearest_existing(folder)
    return [f"{name}: {folder}: {there} cannot be written to by this user; export {name}=FOLDER, one that can be"]


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(n) for n in re.findall(r"\d+", version)[:3])


def check_toolchain() -> None:
    """DeepSpeed builds its CPU collectives at start: say what is missing, and how to get it, before it fails in the
    middle.
    """
    import torch  # checks of flags must not wait for it

    if torch.cuda.is_available():
        return
    problems = []
    if not shutil.which("g++"):
        problems.append(
            "g++ is missing; DeepSpeed builds its CPU collectives with it: `apt-get install -y g++` (or load "
            "your site's gcc module)"
        )
    if not shutil.which("ninja"):
        problems.append(
            "ninja is not on PATH; `pip install ninja` and put the environment's bin folder on PATH (`. "
            ".venv/bin/activate`)"
        )
    if problems:
        raise UserError(problems)
