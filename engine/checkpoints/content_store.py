"""Tensors that change seldom and are the size of the rest: each row's best step, a frozen metaprompt. Beside the
checkpoints, not in each.

    checkpoints/reused/best-<sha256>.1.safetensors, best-<sha256>.2.safetensors

Named by their content, which a checkpoint's state names too; written when it changes. Twice: checkpoints share them,
and one flipped bit must not cost them all.
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from safetensors.torch import load, save
from torch import Tensor

from engine.core import new_partial, publish, remove

FOLDER, COPIES = "reused", (1, 2)


def write(checkpoints: Path, kind: str, tensors: dict[str, Tensor]) -> str:
    """Have these tensors there, whole; a damaged copy is written again. -> what a checkpoint calls them."""
    content = save({n: t.detach().cpu().contiguous() for n, t in tensors.items()})
    digest = hashlib.sha256(content).hexdigest()
    folder = checkpoints / FOLDER
    folder.mkdir(exist_ok=True, mode=0o700)
    for file in _files(folder, f"{kind}-{digest}"):
        if _bytes(file, digest) is None:
            partial = new_partial(file)
            try:
                partial.write_bytes(content)
                publish(partial, file)
            finally:
                remove(partial)
    return f"{kind}-{digest}"


def read(checkpoints: Path, name: str) -> dict[str, Tensor] | None:
    """Tensors by the name that ``write`` gave; None where no copy is whole."""
    for file in _files(checkpoints / FOLDER, name):
        content = _bytes(file, name.rpartition("-")[2])
        if content is not None:
            return load(content)
    return None


def forget(checkpoints: Path, names: Iterable[str]) -> None:
    """Remove all but these, and what a killed writer left."""
    wanted: set[str] = set()
    for name in names:
        wanted.update(file.name for file in _files(checkpoints / FOLDER, name))
    for file in (checkpoints / FOLDER).glob("*"):
        if file.name not in wanted:
            file.unlink()


def _files(folder: Path, name: str) -> list[Path]:
    return [folder / f"{name}.{copy}.safetensors" for copy in COPIES]


def _bytes(file: Path, digest: str) -> bytes | None:
    try:
        content = file.read_bytes()
    except OSError:
        return None
    if hashlib.sha256(content).hexdigest() != digest:
        return None
    return content
