"""pydantic's errors in words of ours: the key, what is wrong with its value, and the nearest known word."""

import typing
from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple, get_args, get_origin

from strict_yaml.keys import Place, is_section, place_of, without_none
from strict_yaml.suggestions import did_you_mean, shown_key

if typing.TYPE_CHECKING:
    from pydantic_core import ErrorDetails

BOUNDS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
TYPES = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
MAPPING = "a mapping of keys to values"
_EXPECTED = {
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "text",
    "list_type": "a list",
    "tuple_type": "a list",
}
_UNKNOWN = ("unexpected_keyword_argument", "extra_forbidden")
_EMPTY = ("too_short", "string_too_short")  # of required keys alone
_NO_MAPPING = ("dict_type", "dataclass_type")


class Problem(NamedTuple):
    """What is wrong with a key. ``known``: the keys beside it, or the choices that there are."""

    key: str
    text: str
    kind: Literal["unknown", "choice", "other"] = "other"
    value: Any = None
    known: tuple[Any, ...] = ()
    path: tuple[str, ...] = ()

    @property
    def line(self) -> str:
        """With the key; of an unknown one all that are known, where none is near."""
        if self.kind != "unknown":
            return f"{self.key}: {self.text}"
        if "did you mean" in self.text:
            return self.text
        return f"{self.text}; " + (f"keys: {', '.join(self.known)}" if self.known else "no keys are known there")


def problem_of(cls: type, detail: "ErrorDetails", prefix: str = "") -> Problem:
    """One of pydantic's errors about a dataclass. ``prefix``: of the keys, as the file nests them."""
    path = tuple(str(part) for part in detail["loc"] if not isinstance(part, int))
    key = prefix + ".".join(map(shown_key, path))
    value, of_type = detail["input"], detail["type"]
    if of_type in _UNKNOWN:
        known = place_of(cls, path[:-1]).keys
        text = f"unknown key {key!r}" + did_you_mean(path[-1], known)
        return Problem(key, text, "unknown", value, known, path)
    place = place_of(cls, path)
    if of_type.startswith("missing") or of_type in _EMPTY or (value is None and place.required):
        text = "; ".join(filter(None, ["missing", place.metadata.get("missing")]))
        return Problem(key, text, path=path)
    if of_type == "literal_error":
        choices = choices_of(place.kind)
        return Problem(key, must_be_one_of(value, choices), "choice", value, choices, path)
    return Problem(key, _mismatch(of_type, value, limits=detail.get("ctx", {}), place=place), path=path)


def must_be_one_of(value: Any, choices: Iterable[Any], called: str = "") -> str:
    """The sentence for a value that is not one of the choices. ``called``: what they are called, before their list."""
    choices = tuple(choices)
    listed = ", ".join(map(str, choices))
    return f"must be one of {called}{listed}; got {shown(value)}" + did_you_mean(value, choices)


def counted(number: int, noun: str, plural: str = "") -> str:
    """1, note -> 1 note; 2, note -> 2 notes. ``plural``: where it is not the noun with an s."""
    return f"{number} {noun if number == 1 else plural or noun + 's'}"


def choices_of(kind: Any) -> tuple[Any, ...]:
    """The values of a Literal, or of a list of them."""
    if get_origin(kind) in (list, tuple):
        return choices_of(get_args(kind)[0])
    if get_origin(kind) is Literal:
        return get_args(kind)
    return ()


def shown(value: Any) -> str:
    """A value as a message quotes it. A long one may be a line of a note: only its length is told."""
    if isinstance(value, bool | float) or (isinstance(value, int | str) and len(str(value)) < 60):
        return repr(value)
    if isinstance(value, str):
        return f"text of {len(value)} characters"
    if isinstance(value, int):
        return f"a number of {len(str(abs(value)))} digits"
    if value is None:
        return "nothing"
    named: dict[type, str] = {list: "a list", dict: "a mapping"}
    return named.get(type(value), type(value).__name__)


def _mismatch(of_type: str, value: Any, limits: Mapping[str, Any], place: Place) -> str:
    """A value of the wrong type, or beyond its bounds."""
    if of_type in _NO_MAPPING:
        short = place.metadata.get("short")
        if short and is_section(place.kind):
            return f"must be {_named(place.below(short))}, or a mapping; got {shown(value)}"
        return f"must be {MAPPING}"
    if of_type == "string_type" and isinstance(value, bool):
        return f"must be text; got {value}; write it in quotes"
    if of_type in _EXPECTED:
        single = place.metadata.get("one") and of_type in ("list_type", "tuple_type")
        return f"must be {_named(place) if single else _EXPECTED[of_type]}; got {shown(value)}"
    return f"{_limit(of_type, limits, place)}; got {shown(value)}"


def _limit(of_type: str, limits: Mapping[str, Any], place: Place) -> str:
    """What a value of the right type must be."""
    if of_type == "less_than_equal":
        return f"must be <= {limits['le']:g}"
    if place.metadata.get("wrong"):
        return str(place.metadata["wrong"])
    if of_type == "string_pattern_mismatch":
        return f"must match {limits['pattern']}"
    bounds = [f"{BOUNDS[name]} {limit:g}" for name, limit in place.metadata.get("bounds", {}).items()]
    if of_type == "finite_number":
        bounds.append("finite")
    return f"must be {' and '.join(bounds)}"


def _named(place: Place) -> str:
    """What a value is called that may be written short."""
    kind = without_none(place.kind)
    if get_origin(kind) not in (list, tuple):
        return TYPES.get(kind, "a value")
    if place.metadata.get("one"):
        return f"{TYPES.get(get_args(kind)[0], 'a value')} or a list"
    return "a list"
