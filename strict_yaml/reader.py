"""YAML with unique keys and without YAML 1.1's surprises: only ``true`` and ``false`` are booleans, and a date is text.

YAML 1.1 reads ``no``, ``off`` and ``2020-01-01`` as something else than the words that a card's author meant.
"""

import functools
import re
from pathlib import Path
from typing import Any, Literal, NamedTuple

import yaml
from yaml.constructor import SafeConstructor
from yaml.resolver import Resolver

from strict_yaml.messages import MAPPING
from strict_yaml.suggestions import shown_key

_BOOL, _TIMESTAMP = "tag:yaml.org,2002:bool", "tag:yaml.org,2002:timestamp"
_MERGE = "tag:yaml.org,2002:merge"
_INT = "tag:yaml.org,2002:int"
DIGITS = 60  # of a whole number; Python writes none of more than 4,300


class FileProblem(NamedTuple):
    """What is wrong with a file. ``line`` counts from 1; 0 where there is none. ``key``: the one that is repeated."""

    kind: Literal["absent", "encoding", "syntax", "key", "repeated", "content"]
    line: int
    text: str
    key: str = ""


class UnreadableFile(ValueError):
    """A file that holds no mapping of unique keys. The reader's caller names the file and the fix."""

    def __init__(self, problems: list[FileProblem]):
        self.problems = problems
        super().__init__("; ".join(p.text for p in problems))

    def told(self, path: str | Path, absent: str) -> list[str]:
        """A line a problem, with file and line.

        Args:
            absent: what to do about a file that is not there, or is none of text.
        """
        return [f"{path}, {line}" if line.startswith("line ") else f"{path}: {line}" for line in self.lines(absent)]

    def lines(self, absent: str) -> list[str]:
        """The same without the file, for a caller that names it once: ``line 3: …``, or the problem alone."""
        out = []
        for problem in self.problems:
            line = f"line {problem.line}: {problem.text}" if problem.line else problem.text
            if problem.kind in ("absent", "encoding"):
                line += f"; {absent}"
            out.append(line)
        return out


class _Strict(SafeConstructor):
    """SafeLoader's values. It notes duplicate keys, of which YAML would keep the last."""

    problems: list[FileProblem]

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        if len(node.value) <= DIGITS:
            return super().construct_yaml_int(node)
        line = node.start_mark.line + 1
        self.problems.append(FileProblem("syntax", line, f"a number must have at most {DIGITS} digits"))
        return 0

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        first: dict[str, int] = {}
        for key_node, _ in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):  # such as `run_dir: {{ name }}`, a placeholder left in
                self.problems.append(FileProblem("key", line, "a key must be plain text"))
                return {}
            written = key_node.value
            key = written
            if key_node.tag != _MERGE:  # 1 and 01 are one number
                key = str(self.construct_object(key_node))
            if key in first:
                text = f"duplicate key {shown_key(written)!r} (first in line {first[key]})"
                self.problems.append(FileProblem("repeated", line, text, written))
            first.setdefault(key, line)
        return super().construct_mapping(node, deep=True)


def _words_stay_words() -> dict[str, list[tuple[str, re.Pattern[str]]]]:
    """SafeLoader's resolvers of plain scalars, without those of booleans and dates."""
    kept = {}
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items():
        kept[first] = [(tag, pattern) for tag, pattern in resolvers if tag not in (_BOOL, _TIMESTAMP)]
    return kept


class _Words(Resolver):
    """SafeLoader's types, with words left as words."""


_Strict.yaml_constructors = SafeConstructor.yaml_constructors | {_INT: _Strict.construct_yaml_int}
_Words.yaml_implicit_resolvers = _words_stay_words()
_Words.add_implicit_resolver(_BOOL, re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF"))


class _Loader(_Strict, _Words, yaml.SafeLoader):
    """Reads by PyYAML's own parser, whose words all messages are."""

    def __init__(self, stream: str) -> None:
        yaml.SafeLoader.__init__(self, stream)
        self.problems = []


def read_mapping(path: str | Path, shipped: bool = False) -> dict[str, Any]:
    """The mapping that a file holds.

    Args:
        shipped: the file is part of this program, whose tests read it both ways: libyaml, where PyYAML has it, reads
            it in an eighth of the time. It takes a few files that PyYAML's own parser refuses, such as one with tabs.

    Raises:
        UnreadableFile: it cannot be opened, is no UTF-8 or no YAML, repeats keys (all of them), or holds no mapping.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UnreadableFile([FileProblem("absent", 0, str(error.strerror))]) from None
    except UnicodeDecodeError as error:
        raise UnreadableFile(
            [FileProblem("encoding", 0, f"not a text file: byte {error.start} is not UTF-8")]
        ) from None
    content = _parsed_by_libyaml(text) if shipped else None
    if content is None:
        content = _parsed(text)
    if not isinstance(content, dict):
        raise UnreadableFile([FileProblem("content", 0, f"must hold {MAPPING}")])
    return {str(key): value for key, value in content.items()}


def parse(text: str) -> Any:
    """A value as a flag gives it.

    Raises:
        UnreadableFile: it is no YAML.
    """
    return _parsed(text)


def _parsed(text: str) -> Any:
    try:
        loader = _Loader(text)
        content = loader.get_single_data()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark else 0
        problem = getattr(error, "problem", None) or "malformed"
        raise UnreadableFile([FileProblem("syntax", line, f"not valid YAML ({problem})")]) from None
    except (ValueError, KeyError, AttributeError, RecursionError):  # !!int x, 3,000 brackets
        raise UnreadableFile([FileProblem("syntax", 0, "not valid YAML (unreadable value)")]) from None
    if loader.problems:
        raise UnreadableFile(loader.problems)
    return content


def _parsed_by_libyaml(text: str) -> Any:
    """The same of a text in which nothing is wrong. None where something is, or where PyYAML came without libyaml."""
    quick = _libyaml_loader()
    if quick is None:
        return None
    try:
        loader = quick(text)
        content = loader.get_single_data()
    except (yaml.YAMLError, ValueError, KeyError, AttributeError, RecursionError):
        return None
    if loader.problems:
        return None
    return content


@functools.cache
def _libyaml_loader() -> type | None:
    if not hasattr(yaml, "CSafeLoader"):
        return None

    class Quick(_Strict, _Words, yaml.CSafeLoader):
        def __init__(self, stream: str) -> None:
            yaml.CSafeLoader.__init__(self, stream)
            self.problems = []

    return Quick
