"""Finding, opening and decoding released files without ever quoting one. A path may lead through an archive:
`.../release.zip/train/a.txt`.

Use these in place of `Path.is_file`, `read_bytes` and `glob`: a `Path` that leads through an archive is no file to the
system.
"""

from __future__ import annotations

import codecs
import contextlib
import re
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import BinaryIO

from clinical_tasks.readers.archives import is_archive_name, locate, members, open_archive, open_member, refusing_damage
from clinical_tasks.schema import ReadError, read_error

OnOpen = Callable[[Path, BinaryIO], BinaryIO]
_on_open: ContextVar[OnOpen | None] = ContextVar("on_open", default=None)


@contextlib.contextmanager
def watching_files(on_open: OnOpen) -> Iterator[None]:
    """Meanwhile readers read `on_open(path, stream)` in place of each stream that they open in this thread.

    So a file can be hashed while it is read, and need not be opened again for that.
    """
    token = _on_open.set(on_open)
    try:
        yield
    finally:
        _on_open.reset(token)


def is_file(path: Path) -> bool:
    """Whether a file is there, on the disk or inside an archive."""
    if path.is_file():
        return True
    place = locate(path)
    return place is not None and place[1] in open_archive(place[0]).names


def open_bytes(path: Path) -> BinaryIO:
    """The file as a stream of bytes. Raises `ReadError`."""
    stream, on_open = _open(path), _on_open.get()
    return stream if on_open is None else on_open(path, stream)


def _open(path: Path) -> BinaryIO:
    place = locate(path)
    if place is not None:
        return open_member(*place)
    try:
        return path.open("rb")
    except OSError as error:
        raise read_error(
            path, f"cannot be opened ({error.strerror})", fix="check the path and its permissions"
        ) from None


def read_bytes(path: Path) -> bytes:
    """The whole file. Raises `ReadError`."""
    with open_bytes(path) as stream, refusing_damage(path):
        try:
            return stream.read()
        except OSError as error:
            raise read_error(path, f"cannot be read ({error.strerror})", fix="check the file and the disk") from None


def read_text(path: Path, *, skip_bom: bool = True) -> str:
    """The file's characters with its line ends as they are: offsets and line numbers depend on them.

    `skip_bom=False` keeps a leading byte order mark as a character, as standoff tools count it.
    """
    data = read_bytes(path)
    try:
        return data.decode("utf-8-sig" if skip_bom else "utf-8")
    except UnicodeDecodeError as error:
        # `from None`: the original holds the file's bytes.
        position = error.start
        if skip_bom and data.startswith(codecs.BOM_UTF8):
            position += len(codecs.BOM_UTF8)
        raise _not_utf8(path, position) from None


def lines_of(path: Path) -> list[str]:
    """The lines of a file of annotations, without their "\\n"; a "\\r" before it stays.

    Only "\\n" ends a line: `splitlines` also breaks on characters that occur inside notes, and shifts every number
    after.

    Raises:
        ReadError: lines end in CR alone, so that the file would be one line.
    """
    lines = read_text(path).split("\n")
    if len(lines) == 1 and "\r" in lines[0].rstrip("\r"):
        raise read_error(path, "lines end in a carriage return alone", fix="let lines end in \\n or \\r\\n")
    return lines


def open_text(path: Path, *, skip_bom: bool = True) -> Iterator[str]:
    """The file's lines, one at a time, without their "\\n". Only "\\n" ends a line: a "\\r" before it stays, and so do
    characters at which `splitlines` would break. Memory is that of the longest line. A final "\\n" begins no further
    line.
    """
    position = 0
    with open_bytes(path) as stream, refusing_damage(path):
        while data := stream.readline():
            try:
                line = data.decode("utf-8")
            except UnicodeDecodeError as error:
                raise _not_utf8(path, position + error.start) from None
            if position == 0 and skip_bom:
                line = line.removeprefix("\ufeff")
            position += len(data)
            yield line.removesuffix("\n")


def _not_utf8(path: Path, position: int) -> ReadError:
    return read_error(path, f"not UTF-8 at byte {position}", fix="convert the file to UTF-8")


def find_files(folder: Path, name: str) -> list[Path]:
    """What a release name or glob leads to, sorted: in the folder; through the archive that it names; else in the
    archives that lie in the folder.

    In an archive that it does not name, it may lie below any folders (`n2c2_2018/train/a.txt` is found as
    `train/*.txt`), but all of a glob below the same ones: `*.txt` does not mean a training and a test folder at once.

    Raises:
        ReadError: a plain name is found twice in the archives, a glob below several folders; an archive is refused.
    """
    # A plain name is looked up as it is: release names may hold characters that a glob would interpret.
    if is_file(folder / name):
        return [folder / name]
    parts = name.split("/")
    for number, part in enumerate(parts[:-1], start=1):
        if is_archive_name(part):
            archives = [path for path in sorted(folder.glob("/".join(parts[:number]))) if path.is_file()]
            return _inside_all(archives, "/".join(parts[number:]), anywhere=False)
    found = [path for path in sorted(folder.glob(name)) if path.is_file()]
    if found or is_archive_name(name):
        return found
    archives = sorted(path for path in folder.glob("*") if is_archive_name(path.name) and path.is_file())
    found = _inside_all(archives, name, anywhere=True)
    if len(found) > 1 and not set(name) & set("*?["):
        where = " and ".join(path.relative_to(folder).as_posix() for path in found[:2])
        raise read_error(
            folder,
            f"{name} is found more than once: {where}",
            fix="write the whole path, archive included, into the card's splits",
        )
    return found


def _inside_all(archives: list[Path], pattern: str, anywhere: bool) -> list[Path]:
    found = []
    for archive in archives:
        found += _inside(archive, pattern, anywhere)
    return found


def _inside(archive: Path, pattern: str, anywhere: bool) -> list[Path]:
    folders = "((?:.*?/)?)" if anywhere else "()"
    names = re.compile(folders + _expression(pattern))
    found = {name: match[1] for name in members(archive) if (match := names.fullmatch(name))}
    below = sorted(set(found.values()))
    if len(below) > 1 and set(pattern) & set("*?["):
        reason = f"{pattern} is found below several folders: {below[0] or 'the top'} and {below[1]}"
        raise read_error(archive, reason, fix="write the whole path, archive included, into the card's splits")
    return [archive / name for name in found]


def _expression(pattern: str) -> str:
    """A glob as a regular expression: `**/` any folders, `*` and `?` within a name, `[...]` a set."""
    out = []
    for token in re.findall(r"\*\*/|\*+|\?|\[!?\]?[^\]/]*\]|.", pattern, re.DOTALL):
        if token == "**/":
            out.append("(?:[^/]+/)*")
        elif token[0] == "*":
            out.append("[^/]*")
        elif token == "?":
            out.append("[^/]")
        elif token[0] == "[" and len(token) > 1:
            inner = token[1:-1].replace("\\", "\\\\")
            if inner.startswith("!"):
                inner = "^" + inner[1:]
            elif inner.startswith("^"):
                inner = "\\" + inner
            out.append(f"[{inner}]")
        else:
            out.append(re.escape(token))
    return "".join(out)


def name_in(path: Path, folder: Path) -> str:
    """A file's path inside the task's folder without the names of archives on the way: the same packed and unpacked
    there.
    """
    *folders, name = path.relative_to(folder).parts
    if locate(path):
        folders = [part for part in folders if not is_archive_name(part)]
    return "/".join([*folders, name])
