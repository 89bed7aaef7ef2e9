"""Set before any other import of consequence: nothing goes out, and nothing is readable by others.

What libraries compile lies in the clone. It lies in the user's own cache folder where there is no clone (an installed
wheel), or where the clone cannot be written to, as when several users share one. Never text of a note: that folder is
for code and settings.
"""

import os
import resource
import stat
import sys
from pathlib import Path

from engine.core.atomic_files import is_creatable
from engine.core.resources import source_tree

TREE = source_tree()
CACHE = None if TREE is None else TREE / ".cache"
CODE_CACHES = {
    "TORCH_EXTENSIONS_DIR": "torch_extensions",
    "TRITON_CACHE_DIR": "triton",
    "TORCHINDUCTOR_CACHE_DIR": "inductor",
    "HF_MODULES_CACHE": "huggingface/modules",
}
LIBRARIES = {**CODE_CACHES, "HF_HOME": "huggingface", "WEIGHT_DIGESTS_DIR": "digests"}
# where cuBLAS keeps partial sums; its own choice gives other bits from run to run
CUBLAS, REPEATABLE_WORKSPACES = "CUBLAS_WORKSPACE_CONFIG", (":4096:8", ":16:8")
OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def protect() -> None:
    """Files of this process are for its user only; libraries stay offline, send no telemetry and cache where they can
    write.

    METAPROMPT_CORE_DUMPS=1 leaves core dumps as they are; without it, none is written: memory holds note text.

    Raises:
        SystemExit: with code 2, where a cache that code is loaded from is not this user's alone.
    """
    os.umask(0o077)
    if os.environ.get("METAPROMPT_CORE_DUMPS") != "1":
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    # an environment that was not activated: DeepSpeed looks for pip's ninja on PATH
    own = str(Path(sys.executable).parent)
    if own not in os.environ.get("PATH", "").split(os.pathsep):
        os.environ["PATH"] = own + os.pathsep + os.environ.get("PATH", "")
    for name in (
        "HF_HUB_OFFLINE",
        "TRANSFORMERS_OFFLINE",
        "HF_DATASETS_OFFLINE",
        "HF_HUB_DISABLE_TELEMETRY",
        "DO_NOT_TRACK",
    ):
        os.environ[name] = "1"
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    # read once in a process, at its first product on a GPU, and several runs may share a process: so whether or not
    # this one needs it
    os.environ.setdefault(CUBLAS, REPEATABLE_WORKSPACES[0])
    for name, folder in LIBRARIES.items():
        os.environ.setdefault(name, str(library_folder(folder)))
    problems = []
    for name in CODE_CACHES:
        there = Path(os.environ[name])
        if CACHE is not None and CACHE in there.parents:
            continue
        reason = foreign(there)
        if reason:
            remedy = "remove it, or name another folder"
            problems.append(f"{name}: {there} {reason}, and code is loaded from there; {remedy}")
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr, flush=True)
    if problems:
        raise SystemExit(2)


def library_folder(name: str) -> Path:
    """Where a library caches: in the clone, else in the user's cache folder ($XDG_CACHE_HOME, or ~/.cache).
    Writes nothing.
    """
    if CACHE is not None and is_creatable(CACHE / name):
        return CACHE / name
    base = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(base):  # the standard says to ignore a relative one
        base = os.path.expanduser("~/.cache")
    return Path(base) / "clinical-metaprompt" / name


def foreign(folder: Path) -> str:
    """Why what lies in a folder may be another user's work; empty if it is not.

    A missing folder that others could make is made now.
    """
    try:
        if not os.path.lexists(folder):
            there = next(p for p in folder.absolute().parents if p.exists())
            if not there.stat().st_mode & OTHERS_WRITE:
                return ""
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        link, found = folder.lstat(), folder.stat()
    except OSError as error:
        return f"cannot be used ({error.strerror})"
    for one in (link, found):
        if one.st_uid not in (os.geteuid(), 0):
            return f"belongs to another user ({one.st_uid})"
    if not stat.S_ISDIR(found.st_mode):
        return "is not a folder"
    if found.st_mode & OTHERS_WRITE:
        return "can be written to by others"
    return ""
