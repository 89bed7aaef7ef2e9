"""What a dataclass says of its fields besides their types: help, bounds, choices. It stands in the field's metadata."""

import dataclasses
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, get_type_hints


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
    **further: Any,
) -> dict[str, Any]:
    """Metadata of a dataclass field. Bounds and pattern of a list, or of a mapping, are those of each item.

    Args:
        meaning: one plain sentence for ``--help`` and editors.
        above, at_least, below, at_most: bounds of a number.
        pattern: regular expression of a text.
        wrong: what is said behind a value that is none of these, in place of the bound.
        missing: what to do where a required key is missing.
        inner: the keys that a mapping must have, no more and no fewer.
        further: metadata of the dataclass's own kind of file.
    """
    bounds = {"gt": above, "ge": at_least, "lt": below, "le": at_most, "pattern": pattern}
    given = {name: value for name, value in bounds.items() if value is not None}
    return {"help": meaning, "bounds": given, "wrong": wrong, "missing": missing, "inner": inner, **further}


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
    hints = get_type_hints(cls)
    for f in dataclasses.fields(cls):
        kind = hints[f.name]
        if dataclasses.is_dataclass(kind):
            out |= leaves(typing.cast(type, kind), f"{prefix}{f.name}.")
        else:
            name = prefix + f.name
            default = f.default
            if f.default_factory is not dataclasses.MISSING:
                default = f.default_factory()
            out[name] = Leaf(name, kind, default, f.metadata)
    return out
