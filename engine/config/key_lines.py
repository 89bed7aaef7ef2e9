"""The line of each key of a YAML file, for messages about its value."""

from collections.abc import Mapping
from pathlib import Path

import yaml


def key_lines(file: str | Path) -> dict[str, int]:
    """Dotted key -> line, counted from 1; empty where the file cannot be read, which other checks report."""
    try:
        root = yaml.compose(Path(file).read_text(encoding="utf-8-sig"), Loader=yaml.SafeLoader)
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return {}
    found: dict[str, int] = {}
    _collect(root, "", found)
    return found


def at_line(problem: str, file: str | Path, key: str, lines: Mapping[str, int]) -> str:
    """A problem with the file, and the line of its key where the file has it, in front."""
    line = lines.get(key)
    return f"{file}: {problem}" if line is None else f"{file}, line {line}: {problem}"


def _collect(node: yaml.Node | None, prefix: str, found: dict[str, int]) -> None:
    if not isinstance(node, yaml.MappingNode):
        return
    for key, value in node.value:
        if isinstance(key, yaml.ScalarNode):
            name = f"{prefix}{key.value}"
            found.setdefault(name, key.start_mark.line + 1)
            if name.count(".") < 3:  # configurations nest once; a file of aliases could nest without end
                _collect(value, f"{name}.", found)
