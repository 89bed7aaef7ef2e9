"""From a mapping to a dataclass: strict types, bounds, unknown keys, everything at once."""

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from strict_yaml.keys import NO_KEY, about, leaves
from strict_yaml.messages import counted
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
        default_factory=list, metadata=about("Shots.", pattern="^(full|[0-9]+)$", wrong="must be full or a number")
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
        ({"steps": 0}, "inner.steps: must be > 0; got 0"),
        ({"steps": 3.0}, "inner.steps: must be a whole number; got 3.0"),
        ({"steps": True}, "inner.steps: must be a whole number; got True"),
        ({"steps": "3"}, "inner.steps: must be a whole number; got '3'"),
        ({"steps": None}, "inner.steps: must be a whole number; got nothing"),
        ({"rates": [1, -1]}, "inner.rates: must be > 0; got -1.0"),
        ({"rates": 1}, "inner.rates: must be a list; got 1"),
        ({"weight": True}, "inner.weight: must be a number; got True"),
        ({"weight": "fast"}, "inner.weight: must be a number; got 'fast'"),
        ({"weight": 10**400}, "inner.weight: must be a number; got a number of 401 digits"),
        ({"weight": math.inf}, "inner.weight: must be >= 0 and finite; got inf"),
        ({"weight": math.nan}, "inner.weight: must be >= 0 and finite; got nan"),
        ({"way": "cosin"}, "inner.way: must be one of linear, cosine; got 'cosin'; did you mean 'cosine'?"),
        ({"names": ["a", 2.5]}, "inner.names: must be text; got 2.5"),
        ({"names": ["a", False]}, "inner.names: must be text; got False; write it in quotes"),
        ({"on": 1}, "inner.on: must be true or false; got 1"),
        ({"shots": ["4", "half"]}, "inner.shots: must be full or a number; got 'half'"),
        ({"stpes": 1}, "inner.stpes: unknown key 'inner.stpes'; did you mean 'steps'?"),
        ({5: 1}, "inner.5: unknown key 'inner.5'"),
    ],
)
def test_what_a_value_must_not_be(values: dict[Any, Any], wanted: str) -> None:
    assert told({"name": "x", "inner": values}) == [wanted]


def test_a_mapping_of_given_keys_has_them_all_and_no_more() -> None:
    found = told({"name": "x", "shares": {"x": 1.6, "z": 1}})
    assert found == ["shares.x: must be <= 1; got 1.6", "shares.y: missing", "shares.z: unknown key 'shares.z'"]
    assert told({"name": "x", "shares": 3, "free": 3, "inner": 3}) == [
        "shares: must be a mapping of keys to values",
        "free: must be a mapping of keys to values",
        "inner: must be a mapping of keys to values",
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


@dataclass(frozen=True)
class Share:
    """A section with required keys."""

    of: str = field(metadata=about("Of what.", key="from", missing="name it", stand_in="a"))
    part: float = field(metadata=about("Part.", above=0, below=1, missing="0.1 is a tenth", stand_in=0.1))


@dataclass(frozen=True)
class Source:
    """A section that may be written short."""

    files: tuple[str, ...] = field(default=(), metadata=about("Files.", one=True))
    share: Share | None = field(default=None, metadata=about("Share."))


@dataclass(frozen=True)
class Count:
    """A section that a number stands for."""

    rows: int | None = field(default=None, metadata=about("Rows.", at_least=0))
    marks: int | None = field(default=None, metadata=about("Marks."))


@dataclass(frozen=True)
class File:
    """A file of sections by name."""

    name: str = field(
        metadata=about("Name.", pattern="^[a-z]+$", wrong="must be a name", missing="give one", stand_in="none")
    )
    sources: dict[str, Source] = field(
        metadata=about("Sources.", keys=("train", "test"), short="files", missing="list them", stand_in={})
    )
    ways: list[str] = field(default_factory=list, metadata=about("Ways.", one=True))
    words: dict[str, str] = field(default_factory=dict, metadata=about("Words.", numbers=True))
    columns: dict[str, tuple[str, ...]] = field(default_factory=dict, metadata=about("Columns.", one=True))
    counts: dict[str, Count] = field(default_factory=dict, metadata=about("Counts.", short="rows"))
    free: dict[str, Any] = field(default_factory=dict, metadata=about("Anything."))
    place: str = field(default="here", metadata=NO_KEY)


FULL: dict[str, Any] = {
    "name": "x",
    "sources": {"test": "a.txt", "train": {"share": {"from": "test", "part": 0.5}}},
    "ways": 3,
    "words": {2: 2.5, True: "yes"},
    "columns": {"one": "a", "two": ["b", 4]},
    "counts": {"a": 3, "b": {"marks": 4}},
}


def of_file(**changes: Any) -> list[str]:
    return [problem.line for problem in build(File, FULL | changes)[1]]


def test_sections_by_name_short_values_and_lists_of_one() -> None:
    found, problems = build(File, FULL)
    assert not problems
    assert found.sources == {"train": Source(share=Share("test", 0.5)), "test": Source(("a.txt",))}
    assert (found.ways, found.columns) == (["3"], {"one": ("a",), "two": ("b", "4")})
    assert found.words == {"2": "2.5", "True": "yes"}
    assert found.counts == {"a": Count(3), "b": Count(None, 4)}
    assert found.place == "here"
    assert build(File, FULL | {"sources": {"test": ["a", "b"]}})[0].sources == {"test": Source(("a", "b"))}
    assert build(File, FULL | {"sources": {"test": {"share": None}, "train": None}})[0].sources["test"] == Source()


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"name": "X1"}, "name: must be a name; got 'X1'"),
        ({"name": ""}, "name: missing; give one"),
        ({"name": None}, "name: missing; give one"),
        ({"place": "there"}, "unknown key 'place'; keys: name, sources, ways, words, columns, counts, free"),
        ({"sources": {"tset": "a"}}, "unknown key 'sources.tset'; did you mean 'test'?"),
        ({"sources": {"test": 2.5}}, "sources.test: must be text or a list, or a mapping; got 2.5"),
        ({"sources": {"test": [2.5]}}, "sources.test.files: must be text; got 2.5"),
        ({"sources": {"test": {"share": 1}}}, "sources.test.share: must be a mapping of keys to values"),
        ({"sources": {"test": {"share": {"of": "a", "from": "a", "part": 0.1}}}}, None),
        ({"sources": {"test": {"share": {"from": "a"}}}}, "sources.test.share.part: missing; 0.1 is a tenth"),
        (
            {"sources": {"test": {"share": {"from": "a", "part": 1}}}},
            "sources.test.share.part: must be > 0 and ",
        ),
        ({"sources": "a"}, "sources: must be a mapping of keys to values"),
        ({"sources": None}, "sources: missing; list them"),
        ({"ways": 2.5}, "ways: must be text or a list; got 2.5"),
        ({"words": {"a": True}}, "words.a: must be text; got True; write it in quotes"),
        ({"words": {"a": ["x"]}}, "words.a: must be text; got a list"),
        ({"words": ["a"]}, "words: must be a mapping of keys to values"),
        ({"columns": {"a.b": 2.5}}, "columns.a.b: must be text or a list; got 2.5"),
        ({"counts": {"a": "many"}}, "counts.a: must be a whole number, or a mapping; got 'many'"),
        ({"counts": {"a": {"rows": -1}}}, "counts.a.rows: must be >= 0; got -1"),
        ({"counts": {"a": {"rws": 1}}}, "unknown key 'counts.a.rws'; did you mean 'rows'?"),
        ({"free": 1}, "free: must be a mapping of keys to values"),
    ],
)
def test_what_a_file_of_sections_must_not_hold(changes: dict[str, Any], wanted: str | None) -> None:
    found = of_file(**changes)
    assert len(found) == 1, found
    assert found[0].startswith(wanted or "unknown key 'sources.test.share.of'; "), found


def test_a_long_value_is_never_quoted() -> None:
    long = "Zebulon " * 20
    found = of_file(name=long, ways=[{"a": long}], counts={"a": long})
    assert found == [
        "name: must be a name; got text of 160 characters",
        "ways: must be text; got a mapping",
        "counts.a: must be a whole number, or a mapping; got text of 160 characters",
    ]


def test_required_keys_that_are_wrong_hold_their_stand_ins() -> None:
    content = FULL | {"name": 2.5, "sources": {"test": {"share": {"from": "a", "part": 7}}, "train": "a"}}
    found, problems = build(File, content)
    assert [problem.path for problem in problems] == [("name",), ("sources", "test", "share", "part")]
    assert found.name == "none" and found.sources == {"train": Source(("a",)), "test": Source(share=Share("a", 0.1))}
    assert build(File, {})[0] == File(name="none", sources={})


def test_a_prefix_stands_before_every_key() -> None:
    _, problems = build(Share, {"from": 2.5, "prt": 1}, "inner.")
    assert [problem.line for problem in problems] == [
        "inner.from: must be text; got 2.5",
        "inner.part: missing; 0.1 is a tenth",
        "unknown key 'inner.prt'; did you mean 'part'?",
    ]


def test_the_json_schema_of_sections_by_name_says_every_way_to_write_them() -> None:
    schema = json_schema(File)
    assert "place" not in schema["properties"] and schema["required"] == ["name", "sources"]
    sources = schema["properties"]["sources"]
    assert list(sources["properties"]) == ["train", "test"] and sources["additionalProperties"] is False
    short, whole = sources["properties"]["test"]["anyOf"]
    assert short["anyOf"][0] == {"type": ["string", "integer"]} and short["anyOf"][1]["type"] == "array"
    assert whole["additionalProperties"] is False
    share, nothing = whole["properties"]["share"]["anyOf"]
    assert list(share["properties"]) == ["from", "part"] and nothing == {"type": "null"}
    assert schema["properties"]["words"]["additionalProperties"] == {"type": ["string", "number"]}
    assert schema["properties"]["ways"]["description"] == "Ways."


def test_one_thing_is_counted_in_the_singular() -> None:
    assert [counted(number, "note") for number in (0, 1, 2)] == ["0 notes", "1 note", "2 notes"]
    assert counted(1, "batch", "batches") == "1 batch" and counted(2, "batch", "batches") == "2 batches"
