"""pydantic's errors in words of ours: the key, what is wrong with its value, and the nearest known word."""

import dataclasses
import typing
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

from strict_yaml.keys import Leaf, leaves
from strict_yaml.suggestions import did_you_mean

if typing.TYPE_CHECKING:
    from pydantic_core import ErrorDetails

BOUNDS = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most"}
TYPES = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
_EXPECTED = {
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "text",
    "list_type": "a list",
}
_UNKNOWN = ("unexpected_keyword_argument", "extra_forbidden")


class Problem(NamedTuple):
    """What is wrong with a key. ``known``: the keys beside it, or the choices that there are."""

    key: str
    text: str
    kind: Literal["unknown", "choice", "other"] = "other"
    value: Any = None
    known: tuple[Any, ...] = ()


def problem_of(cls: type, detail: "ErrorDetails") -> Problem:
    """One of pydantic's errors about a dataclass."""
    path = [str(part) for part in detail["loc"] if not isinstance(part, int) and part != "[key]"]
    key, value, of_type = ".".join(path), detail["input"], detail["type"]
    if of_type in _UNKNOWN:
        known = _siblings(cls, path)
        return Problem(key, f"unknown key {key!r}" + did_you_mean(path[-1], known), "unknown", value, known)
    every = leaves(cls)
    leaf = every.get(key) or every.get(path[0])  # of a mapping's inner key the mapping
    if leaf is None:
        return Problem(key, "expected keys and values")
    if of_type.startswith("missing"):
        hint = leaf.metadata.get("missing")
        return Problem(key, "; ".join(filter(None, ["missing", hint])))
    if of_type == "literal_error":
        choices = choices_of(leaf.type)
        text = f"{value!r} is none of {', '.join(map(str, choices))}" + did_you_mean(value, choices)
        return Problem(key, text, "choice", value, choices)
    return Problem(key, _mismatch(of_type, value, detail.get("ctx", {}), leaf))


def choices_of(kind: Any) -> tuple[Any, ...]:
    """The values of a Literal, or of a list of them."""
    if get_origin(kind) is list:
        return choices_of(get_args(kind)[0])
    if get_origin(kind) is Literal:
        return get_args(kind)
    return ()


def shown(value: Any) -> str:
    """A value as a message quotes it: short ones as they are, others by their type."""
    short = isinstance(value, int | float | str | bool) and len(str(value)) < 60
    if short:
        return repr(value)
    return type(value).__name__


def _mismatch(of_type: str, value: Any, limits: Mapping[str, Any], leaf: Leaf) -> str:
    """A value of the wrong type, or beyond its bounds."""
    if of_type == "dict_type":
        return "expected keys and values"
    if of_type == "less_than_equal":
        return f"{value} is above {limits['le']:g}"
    if of_type in _EXPECTED:
        return f"expected {_EXPECTED[of_type]}, found {shown(value)}"
    if leaf.metadata.get("wrong"):
        return f"{shown(value)} {leaf.metadata['wrong']}"
    bounds = [f"{BOUNDS[name]} {limit:g}" for name, limit in leaf.metadata.get("bounds", {}).items()]
    if of_type == "finite_number":
        return f"{value} is not {' and '.join([*bounds, 'finite'])}"
    return f"{value} is not {' and '.join(bounds)}"


def _siblings(cls: type, path: Sequence[str]) -> tuple[str, ...]:
    """The keys that may stand where the last part of a path does."""
    for depth, part in enumerate(path[:-1]):
        field = next(f for f in dataclasses.fields(cls) if f.name == part)
        kind = get_type_hints(cls)[part]
        if not dataclasses.is_dataclass(kind):
            assert depth == len(path) - 2
            return tuple(field.metadata["inner"])
        cls = typing.cast(type, kind)
    return tuple(f.name for f in dataclasses.fields(cls))
