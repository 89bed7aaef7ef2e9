"""What a dataclass says of its fields besides their types: help, bounds, choices. It stands in the field's metadata."""

import dataclasses
import functools
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field
from typing import Any, NamedTuple, TypeGuard, get_args, get_origin, get_type_hints

NO_KEY: dict[str, Any] = {"key": None}
"""Metadata of a field that no file gives: code sets it."""


def about(
    meaning: str,
    *,
    above: float | None = None,
    at_least: float | None = None,
    below: float | None = None,
    at_most: float | None = None,
    pattern: str | None = None,
    wrong: str = "",
    missing: str = "",
    inner: tuple[str, ...] = (),
    keys: tuple[str, ...] = (),
    one: bool = False,
    short: str = "",
    numbers: bool = False,
    key: str = "",
    **further: Any,
) -> dict[str, Any]:
    """Metadata of a dataclass field. What is said of a value is, for a list or a mapping, said of each item.

    Args:
        meaning: one plain sentence for ``--help`` and editors.
        above, at_least, below, at_most: bounds of a number.
        pattern: regular expression of a text.
        wrong: what a value must be, in words that replace the bound: ``must be full or a number``.
        missing: what to do where a required key is missing.
        inner: the keys that a mapping must have, no more and no fewer.
        keys: the keys that a mapping may have, no others.
        one: a list of one item may be written as that item.
        short: the key of a section that its value alone stands for: ``test: a.txt`` for ``test: {files: a.txt}``.
        numbers: a text may be written as any number; otherwise only as a whole one.
        key: the key's name in the file, where a field cannot have it (``from``).
        further: ``stand_in``, what `build` puts in the place of a required key that is missing or wrong, so that what
            lies between the other keys can be checked; and metadata of the dataclass's own kind of file.
    """
    limits = {"gt": above, "ge": at_least, "lt": below, "le": at_most, "pattern": pattern}
    bounds = {name: value for name, value in limits.items() if value is not None}
    said = {"help": meaning, "bounds": bounds, "wrong": wrong, "missing": missing, "inner": inner, **further}
    named = {"keys": keys, "one": one, "short": short, "numbers": numbers, "key": key}
    return said | {name: value for name, value in named.items() if value}


@dataclass(frozen=True)
class Leaf:
    """A key that holds a value: its dotted name, type, default and metadata."""

    name: str
    type: Any
    default: Any
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def help(self) -> str:
        return str(self.metadata.get("help", ""))


def leaves(cls: type, prefix: str = "") -> dict[str, Leaf]:
    """Dotted name -> leaf, of a dataclass and of the dataclasses in it. A required key has the default MISSING."""
    out: dict[str, Leaf] = {}
    for key, f in fields_of(cls).items():
        kind = type_of(cls, f)
        if is_section(kind):
            out |= leaves(kind, f"{prefix}{key}.")
        else:
            default = f.default
            if f.default_factory is not MISSING:
                default = f.default_factory()
            out[prefix + key] = Leaf(prefix + key, kind, default, f.metadata)
    return out


def is_section(kind: Any) -> TypeGuard[type]:
    """Whether a type is a dataclass: a mapping of keys that are known."""
    return isinstance(kind, type) and dataclasses.is_dataclass(kind)


def fields_of(cls: type) -> dict[str, dataclasses.Field[Any]]:
    """Key in the file -> field, of a dataclass."""
    named = [(f.metadata.get("key", f.name), f) for f in dataclasses.fields(cls)]
    return {key: f for key, f in named if key is not None}


def type_of(cls: type, f: dataclasses.Field[Any]) -> Any:
    """A field's type, wherever the dataclass is written."""
    return _types_of(cls)[f.name]


@functools.cache
def _types_of(cls: type) -> Mapping[str, Any]:
    """Of every field: annotations are text, and Python reads those of a whole class at once."""
    return get_type_hints(cls)


def is_required(f: dataclasses.Field[Any]) -> bool:
    return f.default is MISSING and f.default_factory is MISSING


def without_none(kind: Any) -> Any:
    """``X`` of ``X | None``; every other type as it is."""
    if get_origin(kind) not in (types.UnionType, typing.Union):
        return kind
    (bare,) = (part for part in get_args(kind) if part is not type(None))
    return bare


def inside(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """What a mapping's metadata say of each of its values."""
    return {name: value for name, value in metadata.items() if name not in ("inner", "keys")}


class Place(NamedTuple):
    """Where a path of keys leads: the type there, what its field says of it, and whether it must be there."""

    kind: Any
    metadata: Mapping[str, Any] = types.MappingProxyType({})
    required: bool = False

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys that may stand there; none where any may."""
        if is_section(self.kind):
            return tuple(fields_of(self.kind))
        return tuple(self.metadata.get("inner") or self.metadata.get("keys") or ())

    def below(self, key: str) -> "Place":
        if is_section(self.kind):
            f = fields_of(self.kind)[key]
            return Place(without_none(type_of(self.kind, f)), f.metadata, is_required(f))
        if get_origin(self.kind) is dict:
            required = key in self.metadata.get("inner", ())
            return Place(without_none(get_args(self.kind)[1]), inside(self.metadata), required)
        return self  # a mapping of anything


def place_of(cls: type, path: Sequence[str]) -> Place:
    """Where a path of keys leads, from a dataclass on."""
    place = Place(cls)
    for key in path:
        place = place.below(key)
    return place
