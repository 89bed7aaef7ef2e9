"""From a mapping to a dataclass: strict types, bounds, unknown keys, everything at once."""

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from strict_yaml.keys import about, leaves
from strict_yaml.structure import build, json_schema


@dataclass
class Inner:
    """A section."""

    steps: int = field(default=3, metadata=about("Steps.", above=0))
    rates: list[float] = field(default_factory=list, metadata=about("Rates.", above=0))
    way: Literal["linear", "cosine"] = field(default="linear", metadata=about("Way."))
    names: list[str] = field(default_factory=list, metadata=about("Names."))
    on: bool = field(default=False, metadata=about("On."))
    weight: float = field(default=1.0, metadata=about("Weight.", at_least=0))
    shots: list[str] = field(
        default_factory=list, metadata=about("Shots.", pattern="^(full|[0-9]+)$", wrong="is neither")
    )


@dataclass(frozen=True)
class Outer:
    """A file."""

    name: str = field(metadata=about("Name.", missing="give one"))
    shares: dict[str, float] = field(
        default_factory=lambda: {"x": 1.0, "y": 1.0}, metadata=about("Shares.", inner=("x", "y"), above=0, at_most=1)
    )
    free: dict[str, Any] = field(default_factory=dict, metadata=about("Anything."))
    inner: Inner = field(default_factory=Inner)


def told(content: dict[str, Any]) -> list[str]:
    return [f"{problem.key}: {problem.text}" for problem in build(Outer, content)[1]]


def of_inner(**values: Any) -> list[str]:
    return told({"name": "x", "inner": values})


def test_only_lossless_steps_are_taken() -> None:
    values = {"steps": 2, "rates": [1, "1e-3"], "names": [16, "a"], "on": "yes", "weight": 3}
    found, problems = build(Outer, {"name": 7, "shares": {"x": 1, "y": "1e-1"}, "free": {"a": {3: 4}}, "inner": values})
    assert not problems
    assert found == Outer(
        "7", {"x": 1.0, "y": 0.1}, {"a": {3: 4}}, Inner(2, [1.0, 0.001], "linear", ["16", "a"], True, 3.0)
    )
    assert isinstance(found.inner.weight, float)


def test_defaults_are_each_ones_own_and_an_empty_section_is_the_default() -> None:
    first, second = build(Outer, {"name": "a", "inner": None})[0], build(Outer, {"name": "a"})[0]
    first.inner.rates.append(1.0)
    assert second.inner == Inner() and build(Outer, {"name": "a"})[0].inner == Inner()


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ({"steps": 0}, "inner.steps: 0 is not above 0"),
        ({"steps": 3.0}, "inner.steps: expected a whole number, found 3.0"),
        ({"steps": True}, "inner.steps: expected a whole number, found True"),
        ({"steps": "3"}, "inner.steps: expected a whole number, found '3'"),
        ({"steps": None}, "inner.steps: expected a whole number, found NoneType"),
        ({"rates": [1, -1]}, "inner.rates: -1.0 is not above 0"),
        ({"rates": 1}, "inner.rates: expected a list, found 1"),
        ({"weight": True}, "inner.weight: expected a number, found True"),
        ({"weight": "fast"}, "inner.weight: expected a number, found 'fast'"),
        ({"weight": 10**400}, "inner.weight: expected a number, found int"),
        ({"weight": math.inf}, "inner.weight: inf is not at least 0 and finite"),
        ({"weight": math.nan}, "inner.weight: nan is not at least 0 and finite"),
        ({"way": "cosin"}, "inner.way: 'cosin' is none of linear, cosine; did you mean 'cosine'?"),
        ({"names": ["a", 2.5]}, "inner.names: expected text, found 2.5"),
        ({"names": ["a", False]}, "inner.names: expected text, found False"),
        ({"on": 1}, "inner.on: expected true or false, found 1"),
        ({"shots": ["4", "half"]}, "inner.shots: 'half' is neither"),
        ({"stpes": 1}, "inner.stpes: unknown key 'inner.stpes'; did you mean 'steps'?"),
        ({5: 1}, "inner.5: unknown key 'inner.5'"),
    ],
)
def test_what_a_value_must_not_be(values: dict[Any, Any], wanted: str) -> None:
    assert told({"name": "x", "inner": values}) == [wanted]


def test_a_mapping_of_given_keys_has_them_all_and_no_more() -> None:
    found = told({"name": "x", "shares": {"x": 1.6, "z": 1}})
    assert found == ["shares.x: 1.6 is above 1", "shares.y: missing", "shares.z: unknown key 'shares.z'"]
    assert told({"name": "x", "shares": 3, "free": 3, "inner": 3}) == [
        "shares: expected keys and values",
        "free: expected keys and values",
        "inner: expected keys and values",
    ]


def test_everything_is_told_at_once_and_what_is_right_is_kept() -> None:
    found, problems = build(Outer, {"name": "x", "inner": {"steps": 0, "weight": 2, "way": "up", "zzz": 1}, "nmae": 1})
    assert sorted(problem.key for problem in problems) == ["inner.steps", "inner.way", "inner.zzz", "nmae"]
    assert found.inner == Inner(weight=2.0)
    assert build(Outer, {})[0] is None and told({}) == ["name: missing; give one"]


def test_leaves_hold_type_default_and_metadata() -> None:
    found = leaves(Outer)
    assert list(found)[:4] == ["name", "shares", "free", "inner.steps"]
    assert (found["inner.steps"].type, found["inner.steps"].default, found["inner.steps"].help) == (int, 3, "Steps.")


def test_the_json_schema_says_meaning_bounds_and_default_and_is_closed() -> None:
    schema = json_schema(Outer)
    assert schema["required"] == ["name"] and schema["additionalProperties"] is False
    inner = schema["properties"]["inner"]
    assert inner["additionalProperties"] is False
    assert inner["properties"]["steps"] == {
        "default": 3,
        "description": "Steps.",
        "exclusiveMinimum": 0,
        "type": "integer",
    }
    assert inner["properties"]["way"]["enum"] == ["linear", "cosine"]
    # a number is taken for text: shots: [16]
    assert inner["properties"]["names"]["items"]["type"] == ["string", "integer"]
    assert schema["properties"]["shares"]["required"] == ["x", "y"]
