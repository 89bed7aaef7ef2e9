"""YAML as cards need it: `yes` and `no` stay words, a key given twice is a problem, every problem is collected."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from clinical_tasks.schema import CardError


class _CardLoader(yaml.SafeLoader):
    """SafeLoader in which only true/false are booleans: YAML 1.1 would read the labels yes and no as true and false."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self.repeated: list[str] = []

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """A mapping; notes the keys that occur twice, of which YAML would silently keep the last."""
        seen = set()
        for key_node, _ in node.value:
            key = getattr(key_node, "value", None)
            if isinstance(key, str) and key in seen:
                self.repeated.append(f"line {key_node.start_mark.line + 1}: key '{key}' is given twice; keep one")
            seen.add(key if isinstance(key, str) else None)
        return super().construct_mapping(node, deep=deep)


_CardLoader.yaml_implicit_resolvers = {
    first: [
        (tag, pattern)
        for tag, pattern in resolvers
        if tag not in ("tag:yaml.org,2002:bool", "tag:yaml.org,2002:timestamp")
    ]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_CardLoader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)


def read_card_yaml(path: Path) -> dict[str, Any]:
    """The card's mapping, as written. Raises `CardError` for a file that is no YAML mapping or repeats a key."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise CardError(path, [f"cannot be opened ({error.strerror}); check the path"]) from None
    except UnicodeDecodeError as error:
        raise CardError(path, [f"not UTF-8 at byte {error.start}; convert the file"]) from None
    loader = _CardLoader(text)
    try:
        content = loader.get_single_data()
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise CardError(path, [f"line {line}: not YAML ({error.problem}); check indentation and quotes"]) from None
    except yaml.YAMLError:
        raise CardError(path, ["not YAML; check for control characters"]) from None
    if loader.repeated:
        raise CardError(path, loader.repeated)
    if not isinstance(content, dict):
        raise CardError(path, ["not a mapping of keys; see docs/data.md for a card to start from"])
    return {str(key): value for key, value in content.items()}
