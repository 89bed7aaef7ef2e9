"""What is made once and read by all ranks, before the process group starts. Rank 0 makes it, again where it is
damaged; the others wait.

A split's rows are a folder of two files: the Arrow table, and its checksum with the name that the folder was given.
That name holds a hash of all the files that the rows were made from. Rank 0 finds it and publishes it in a small file,
so that the other ranks need not read a corpus.
"""

import contextlib
import errno
import hashlib
import json
import os
import secrets
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from engine.core import UserError, is_creatable, new_partial, publish, remove, sha256_of
from engine.distributed import slurm_task

ROWS, CHECKSUM = "rows.arrow", "checksum.json"
POLL_SECONDS = 0.2
REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS)
OUTDATED = 24 * 3600.0  # seconds after which no rank of a launch can be waiting for its keys

FAILED = "rank 0 could not prepare it; its message says why"

Keys = dict[str, dict[str, str]]  # task -> split -> key; what rank 0 could not make has none
Damage = Callable[[Path], str]  # what is wrong with a file or folder that is there, or nothing


def build_once(
    final: Path, rank: int, what: str, build: Callable[[], None], damage: Damage, print_rank0: Callable[[str], None]
) -> None:
    """Have rank 0 make a file or folder of the cache that is missing or damaged; others wait for it, or its failure.

    Args:
        build: makes ``final``. damage: reads it; every rank looks for itself. print_rank0: is told what is made again,
            and why.

    Raises:
        UserError: rank 0 failed, or the cache's folder cannot be written to.
    """
    if rank != 0:
        await_build(final, rank, what, damage)
    elif not is_whole(final, what, damage, print_rank0):
        with building([final]):
            build()


def is_whole(final: Path, what: str, damage: Damage, print_rank0: Callable[[str], None]) -> bool:
    """Whether it is there and undamaged. Damage is told; ``building`` then frees the name."""
    if not final.exists():
        return False
    problem = damage(final)
    if problem:
        print_rank0(f"WARNING {what}: {final} {problem}; it is rebuilt")
    return not problem


@contextlib.contextmanager
def building(finals: Sequence[Path]) -> Iterator[None]:
    """Meanwhile rank 0 makes what is missing or damaged. Ranks that wait for it learn of a failure.

    Raises:
        UserError: the cache's folder cannot be written to.
    """
    try:
        for final in finals:
            if final.exists():
                _set_aside(final)
            final.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            _marker(final).unlink(missing_ok=True)
        yield
    except BaseException as error:
        for final in finals:
            mark_failed(final)
        if isinstance(error, OSError):
            raise_if_refused(error, [final.parent for final in finals])
        raise


def raise_if_refused(error: OSError, folders: Sequence[Path]) -> None:
    """A cache that cannot be written to is its user's error, and is told as one."""
    for folder in folders:
        if error.errno in REFUSED and _concerns(error.filename, folder):
            fix = "name another folder (--data.cache=FOLDER), or ask for write permission"
            raise UserError(f"data.cache: {folder} cannot be written to ({error.strerror}); {fix}") from None


def await_build(final: Path, rank: int, what: str, damage: Damage) -> None:
    """Wait for rank 0 to make it.

    Raises:
        UserError: rank 0 failed.
    """
    seen: tuple[int, int] | None = None
    while True:
        version = _version(final)
        if version != seen and version is not None:  # read once, and again when rank 0 has replaced it
            problem = damage(final)
            if not problem:
                return
            told = f"rank {rank}: {what}: {final} {problem}; waiting for rank 0 to rebuild it"
            print(told, file=sys.stderr, flush=True)
        seen = version
        # a marker of another launch says nothing about this one, whichever rank came first
        failed = _marker(final)
        if failed.exists() and failed.read_text() == launch_id():
            raise UserError(f"{what}: {FAILED}")
        time.sleep(POLL_SECONDS)


# ---- keys ----------------------------------------------------------------------------------------------


def shared_keys(cache: Path, request: str, rank: int, find: Callable[[], Keys]) -> Keys:
    """Have rank 0 find the keys of what the ranks ask for; the others take them from it.

    Where nothing tells this launch from another, or the cache cannot be written to, each rank finds them itself.

    Args:
        request: what is asked for, alike on all ranks. find: reads the corpora's files, or asks for their state.

    Raises:
        UserError: rank 0 failed.
    """
    launch = unique_launch()
    if not launch or not is_creatable(cache):
        return find()
    name = hashlib.sha256(f"{launch}|{request}".encode()).hexdigest()[:24]
    published = cache / f"keys-{name}.json"
    if rank != 0:
        return _await_keys(published)
    try:
        keys = find()
    except BaseException:
        with contextlib.suppress(OSError):  # the launcher ends the ranks that wait
            _publish_keys(published, None)
        raise
    _publish_keys(published, keys)
    return keys


def _await_keys(published: Path) -> Keys:
    while not published.exists():
        time.sleep(POLL_SECONDS)
    keys: Keys | None = json.loads(published.read_text())
    if keys is None:
        raise UserError(f"data: {FAILED}")
    return keys


def _publish_keys(published: Path, keys: Keys | None) -> None:
    cache = published.parent
    cache.mkdir(parents=True, exist_ok=True, mode=0o700)
    for old in cache.glob("keys-*.json"):
        with contextlib.suppress(OSError):
            if time.time() - old.stat().st_mtime > OUTDATED:
                old.unlink()
    partial = new_partial(published)
    try:
        partial.write_text(json.dumps(keys))
        publish(partial, published)
    finally:
        remove(partial)


def unique_launch() -> str:
    """The same on all ranks of one launch, and of no other; nothing where the environment has nothing such.

    torchrun's agents keep a store that all nodes reach. srun numbers its steps; a step of one task may be a shell, in
    which any number of launches are started one after another.
    """
    env = os.environ
    if env.get("TORCHELASTIC_USE_AGENT_STORE") == "True" and int(env.get("WORLD_SIZE", 1)) > 1:
        return f"torchrun {_agreed_token(env)}"
    if env.get("SLURM_JOB_ID") and slurm_task(env) is not None:
        names = ("SLURM_JOB_ID", "SLURM_RESTART_COUNT", "SLURM_STEP_ID", "TORCHELASTIC_RESTART_COUNT")
        return " ".join(env.get(name, "-") for name in names)
    return ""


def _agreed_token(env: Mapping[str, str]) -> str:
    """A random word, the one of the rank that asked the agents' store first; another for each restart of all ranks.

    Agents count their restarts each for itself. After a failure on one node alone the ranks disagree here, as they do
    about the process group; torchrun then ends or restarts them together.
    """
    from torch.distributed import TCPStore  # a data check on a login node does without torch

    # the store through which these ranks will form their process group: where it cannot be reached, that fails too
    store = TCPStore(env["MASTER_ADDR"], int(env["MASTER_PORT"]), is_master=False)
    attempt = env.get("TORCHELASTIC_RESTART_COUNT", "0")
    return store.compare_set(f"clinical_metaprompt/launch/{attempt}", "", secrets.token_hex(16)).decode()


def launch_id() -> str:
    """The same on all ranks of one launch, and different for the next."""
    names = (
        "TORCHELASTIC_RUN_ID",
        "TORCHELASTIC_RESTART_COUNT",
        "MASTER_PORT",
        "SLURM_JOB_ID",
        "SLURM_RESTART_COUNT",
        "SLURM_STEP_ID",
    )
    return " ".join(os.environ.get(name, "-") for name in names)


def note_checksum(folder: Path, name: str) -> None:
    """Beside a split's rows, before the folder gets its ``name``."""
    file = folder / CHECKSUM
    file.touch(0o600)
    file.write_text(json.dumps({"of": name, ROWS: sha256_of(folder / ROWS)}))


def damage_of_rows(folder: Path) -> str:
    """What is wrong with a split's folder, or nothing. Reads all of its rows, once."""
    try:
        told = json.loads((folder / CHECKSUM).read_text())
        if told["of"] != folder.name:
            return "holds different rows than its name says"
        return "" if sha256_of(folder / ROWS) == told[ROWS] else f"is damaged or cut (the checksum of {ROWS} differs)"
    except FileNotFoundError as error:
        return f"is incomplete ({Path(error.filename).name} is missing)"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    except (ValueError, KeyError, TypeError):
        return f"is damaged ({CHECKSUM} cannot be read)"


def _set_aside(final: Path) -> None:
    """Free a name. Who has the damaged content open keeps it."""
    aside = new_partial(final, folder=True)
    final.rename(aside / final.name)
    remove(aside)


def _version(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


def _marker(final: Path) -> Path:
    return final.with_suffix(".failed")


def mark_failed(final: Path) -> None:
    """Tell ranks that wait for it that it will not be made."""
    with contextlib.suppress(OSError):  # where it cannot be written, the launcher ends the ranks that wait
        _marker(final).write_text(launch_id())


def _concerns(filename: object, folder: Path) -> bool:
    """Whether an error's file lies in ``folder``, or is one of the folders above it."""
    if not isinstance(filename, str | os.PathLike):
        return False
    path = Path(filename).absolute()
    return path.is_relative_to(folder.absolute()) or folder.absolute().is_relative_to(path)
