"""From a mapping to a dataclass: types, bounds and unknown keys by pydantic, every problem at once in words of ours.

Schemas are built with ``pydantic_core``, the part of pydantic that validates: it loads in a third of pydantic's time.
"""

import dataclasses
import functools
import typing
from collections.abc import Callable, Mapping
from dataclasses import MISSING
from typing import Any, Literal, get_args, get_origin, get_type_hints

from pydantic_core import CoreSchema, SchemaValidator, ValidationError, core_schema as cs

from strict_yaml.messages import Problem, problem_of

_YAML_1_1 = {"yes": True, "on": True, "no": False, "off": False}


def build(cls: type, content: Mapping[str, Any]) -> tuple[Any, list[Problem]]:
    """An instance of a dataclass, and everything that is wrong with ``content``.

    A key that is told of holds its default, so that what lies between keys can be checked all the same. The instance
    is None where a required key is missing or wrong.
    """
    try:
        return _validator(cls).validate_python(content), []
    except ValidationError as error:
        found = [problem_of(cls, detail) for detail in error.errors(include_url=False)]
    problems = list({(p.key, p.text): p for p in found}.values())
    rest = content
    for problem in problems:
        rest = _without(rest, problem.key)
    try:
        return _validator(cls).validate_python(rest), problems
    except ValidationError:
        return None, problems


def json_schema(cls: type) -> dict[str, Any]:
    """A JSON schema of a dataclass, for editors."""
    from pydantic.json_schema import GenerateJsonSchema

    return _closed(GenerateJsonSchema().generate(_schema(cls)))


def _closed(schema: dict[str, Any]) -> dict[str, Any]:
    """With unknown keys refused at every level, and without titles, which repeat the keys."""
    out = {key: value for key, value in schema.items() if key != "title"}
    if "properties" in out:
        out["properties"] = {name: _closed(inner) for name, inner in out["properties"].items()}
        out["additionalProperties"] = False
    return out


@functools.cache
def _validator(cls: type) -> SchemaValidator:
    return SchemaValidator(_schema(cls))


@functools.cache
def _schema(cls: type) -> CoreSchema:
    """Of a dataclass: its fields alone, each with its own bounds. ``teach:`` with nothing behind it is empty."""
    hints = get_type_hints(cls)
    fields = [_field(f, hints[f.name]) for f in dataclasses.fields(cls)]
    args = cs.dataclass_args_schema(cls.__name__, fields, extra_behavior="forbid")
    inner = cs.dataclass_schema(cls, args, [f.name for f in dataclasses.fields(cls)])
    return cs.no_info_before_validator_function(_as_section, inner)


def _field(f: dataclasses.Field[Any], kind: Any) -> cs.DataclassField:
    section = isinstance(kind, type) and dataclasses.is_dataclass(kind)
    inner = _schema(kind) if section else _leaf(kind, f.metadata)
    if "help" in f.metadata:
        told = {**inner.get("metadata", {}).get("pydantic_js_updates", {}), "description": f.metadata["help"]}
        if f.default_factory is not MISSING:
            told["default"] = f.default_factory()
        inner = typing.cast(CoreSchema, {**inner, "metadata": {"pydantic_js_updates": told}})
    if f.default_factory is not MISSING:
        inner = cs.with_default_schema(inner, default_factory=f.default_factory)
    elif f.default is not MISSING:
        inner = cs.with_default_schema(inner, default=f.default)
    return cs.dataclass_field(f.name, inner, kw_only=True)


def _leaf(kind: Any, metadata: Mapping[str, Any]) -> CoreSchema:
    """Of a value. Types are strict: only lossless steps are taken, by the ``_as`` functions."""
    bounds = metadata.get("bounds", {})
    origin = get_origin(kind)
    if origin is Literal:
        return cs.literal_schema(list(get_args(kind)))
    if origin is list:
        return cs.list_schema(_leaf(get_args(kind)[0], metadata), strict=True)
    if origin is dict and metadata.get("inner"):
        value = _leaf(get_args(kind)[1], metadata)
        return cs.typed_dict_schema(
            {name: cs.typed_dict_field(value) for name in metadata["inner"]}, extra_behavior="forbid"
        )
    if origin is dict:
        return cs.dict_schema(cs.str_schema(), _leaf(get_args(kind)[1], metadata), strict=True)
    return {  # type: ignore[no-untyped-call]
        int: lambda: cs.int_schema(strict=True, **bounds),
        float: lambda: _before(_as_number, cs.float_schema(strict=True, allow_inf_nan=False, **bounds)),
        bool: lambda: _before(_as_switch, cs.bool_schema(strict=True)),
        str: lambda: _before(_as_text, cs.str_schema(strict=True, **bounds), type=["string", "integer"]),
        Any: cs.any_schema,
    }[kind]()


def _before(step: Callable[[Any], Any], schema: CoreSchema, **in_json_schema: Any) -> CoreSchema:
    """A step before a strict schema. ``in_json_schema``: what an editor must know of it."""
    return cs.no_info_before_validator_function(step, schema, metadata={"pydantic_js_updates": in_json_schema})


def _as_section(value: Any) -> Any:
    if value is None:
        return {}
    if isinstance(value, dict):
        return {str(key): inner for key, inner in value.items()}
    return value


def _as_number(value: Any) -> Any:
    """YAML 1.1 reads 1e-3 as text; a whole number is a number too."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        return value
    try:
        return float(value)
    except (ValueError, OverflowError):
        return value


def _as_switch(value: Any) -> Any:
    """The reader leaves yes, no, on and off as the words that they are elsewhere."""
    if isinstance(value, str):
        return _YAML_1_1.get(value.lower(), value)
    return value


def _as_text(value: Any) -> Any:
    """A number of shots is a word."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return value


def _without(content: Mapping[str, Any], dotted: str) -> Mapping[str, Any]:
    """``content`` without a key; of a path, what is there of it. A key may have dots in it itself."""
    if dotted in content:
        return {key: value for key, value in content.items() if str(key) != dotted}
    head, _, rest = dotted.partition(".")
    out = {key: value for key, value in content.items() if str(key) != head}
    inner = content.get(head)
    if rest and isinstance(inner, Mapping):
        out[head] = _without(inner, rest)
    return out
