"""Where a wrong value came from: the command line, or a file and its line.

Checks name the key. The user has to know which of two places to change: a flag overrides the file.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from engine import config

COMMAND_LINE = "command line: "
_KEY = re.compile(r"(?:--)?([A-Za-z_][A-Za-z0-9_.]*): ")
_UNKNOWN = re.compile(r"unknown key '([^']+)'")


def with_origins(
    problems: Sequence[str], flags: Mapping[str, str], own: Collection[str], keys: Collection[str], file: str = ""
) -> list[str]:
    """The problems, each once, with the command line or ``file`` and its line in front of its key.

    Args:
        flags: as typed. own: flags of the mode alone. keys: of the run configuration, where the mode reads one.
        file: that the configuration was read from; empty where there is none.
    """
    lines = config.key_lines(file) if file else {}
    told = [_with_origin(problem, flags, own, keys, file, lines) for problem in problems]
    return list(dict.fromkeys(told))


def _with_origin(
    problem: str,
    flags: Mapping[str, str],
    own: Collection[str],
    keys: Collection[str],
    file: str,
    lines: Mapping[str, int],
) -> str:
    prefix = f"{file}: "
    body = problem.removeprefix(prefix) if file else problem
    found = _KEY.match(body)
    unknown = _UNKNOWN.match(body)
    if unknown is not None and body != problem:
        return config.at_line(body, file, unknown[1], lines)
    if found is None:
        return problem
    key = found[1]
    if key not in keys and key not in own:
        if body != problem and key in lines:
            return config.at_line(body, file, key, lines)
        return problem
    text = body.removeprefix("--")
    if key in flags or (key in own and key not in keys):
        return f"{COMMAND_LINE}--{text}"
    if file and key in lines:
        return config.at_line(text, file, key, lines)
    return problem


def of_tasks(problems: Sequence[str], flags: Mapping[str, str]) -> list[str]:
    """Problems of the mode ``tasks`` under the names of its flags: it shares its checks with modes that have others."""
    card = flags.get("backbone", "")
    names = {"data.cards: ": "--cards: ", f"backbone card {card}: ": f"--backbone: {card}: "}
    told = []
    for problem in problems:
        start = next((start for start in names if problem.startswith(start)), "")
        told.append(names.get(start, "") + problem.removeprefix(start))
    return told


def existing(path: str) -> str:
    """The path of a configuration as problems name it; empty where there is no such file."""
    return path if path and Path(path).is_file() else ""
