"""From a mapping to a dataclass: types, bounds and unknown keys by pydantic, every problem at once in words of ours.

Schemas are built with ``pydantic_core``, the part of pydantic that validates: it loads in a third of pydantic's time.
"""

import dataclasses
import functools
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING
from typing import Any, Literal, get_args, get_origin

from pydantic_core import CoreSchema, SchemaValidator, ValidationError, core_schema as cs

from strict_yaml.keys import fields_of, inside, is_required, is_section, place_of, type_of, without_none
from strict_yaml.messages import Problem, problem_of

_YAML_1_1 = {"yes": True, "on": True, "no": False, "off": False}


def build(cls: type, content: Mapping[str, Any], prefix: str = "") -> tuple[Any, list[Problem]]:
    """An instance of a dataclass, and everything that is wrong with ``content``.

    A key that is told of holds its default, or what its metadata call ``stand_in``, so that what lies between keys can
    be checked all the same. The instance is None where a required key without one is missing or wrong.

    Args:
        prefix: what stands before the keys in the file: ``reader_options.``.
    """
    try:
        return _validator(cls).validate_python(content), []
    except ValidationError as error:
        found = [problem_of(cls, detail, prefix) for detail in error.errors(include_url=False)]
    problems = list({(p.key, p.text): p for p in found}.values())
    rest = content
    for problem in problems:
        metadata = {} if problem.kind == "unknown" else place_of(cls, problem.path).metadata
        rest = _changed(rest, problem.path, metadata.get("stand_in", MISSING))
    try:
        return _validator(cls).validate_python(rest), problems
    except ValidationError:
        return None, problems


def json_schema(cls: type) -> dict[str, Any]:
    """A JSON schema of a dataclass, for editors."""
    return typing.cast(dict[str, Any], _closed(_generated(_schema(cls))))


def _generated(schema: CoreSchema) -> dict[str, Any]:
    from pydantic.json_schema import GenerateJsonSchema

    return GenerateJsonSchema().generate(schema)


def _closed(schema: Any) -> Any:
    """With unknown keys refused at every level, and without titles, which repeat the keys."""
    if not isinstance(schema, dict):
        return [_closed(inner) for inner in schema] if isinstance(schema, list) else schema
    out = {key: _closed(value) for key, value in schema.items() if key not in ("title", "properties", "default")}
    if schema.get("default") is not None:
        out["default"] = schema["default"]
    if "properties" in schema:
        out["properties"] = {name: _closed(inner) for name, inner in schema["properties"].items()}
        out["additionalProperties"] = False
    return out


@functools.cache
def _validator(cls: type) -> SchemaValidator:
    return SchemaValidator(_schema(cls))


@functools.cache
def _schema(cls: type, short: str = "") -> CoreSchema:
    """Of a dataclass: its fields alone, each with its own bounds. ``teach:`` with nothing behind it is empty.

    Args:
        short: the key that a value of its own type stands for, in place of a mapping.
    """
    fields = [_field(cls, key, f) for key, f in fields_of(cls).items()]
    args = cs.dataclass_args_schema(cls.__name__, fields, extra_behavior="forbid")
    inner = cs.dataclass_schema(cls, args, [f.name for f in dataclasses.fields(cls)])
    if not short:
        return _before(_as_section, inner)
    own = fields_of(cls)[short]
    kind = without_none(type_of(cls, own))
    accepted = (str, list) if get_origin(kind) in (list, tuple) else (kind, int)
    value = _value(kind, own.metadata)
    return _before(lambda given: _as_section(_long(given, short, accepted)), inner, or_else=value)


def _field(cls: type, key: str, f: dataclasses.Field[Any]) -> cs.DataclassField:
    inner = _value(type_of(cls, f), f.metadata, filled=is_required(f))
    if "help" in f.metadata:
        told = {"description": f.metadata["help"]}
        if f.default_factory is not MISSING and not is_section(f.default_factory):
            told["default"] = f.default_factory()
        inner = _told(inner, told)
    if f.default_factory is not MISSING:
        inner = cs.with_default_schema(inner, default_factory=f.default_factory)
    elif f.default is not MISSING:
        inner = cs.with_default_schema(inner, default=f.default)
    alias = key if key != f.name else None
    return cs.dataclass_field(f.name, inner, kw_only=True, validation_alias=alias)


def _value(kind: Any, metadata: Mapping[str, Any], filled: bool = False) -> CoreSchema:
    """Of a value. Types are strict: only lossless steps are taken, by the ``_as`` functions.

    Args:
        filled: an empty text, list or mapping is refused.
    """
    bare = without_none(kind)
    if bare is not kind:
        return cs.nullable_schema(_value(bare, metadata))
    if is_section(kind):
        return _schema(kind, metadata.get("short", ""))
    at_least = 1 if filled else None
    match get_origin(kind):
        case origin if origin is Literal:
            return cs.literal_schema(list(get_args(kind)))
        case origin if origin in (list, tuple):
            return _list(kind, metadata, at_least)
        case origin if origin is dict:
            return _mapping(get_args(kind)[1], metadata, at_least)
    return _scalar(kind, metadata, at_least)


def _list(kind: Any, metadata: Mapping[str, Any], at_least: int | None) -> CoreSchema:
    item = _value(get_args(kind)[0], metadata)
    found: CoreSchema = cs.list_schema(item, strict=True, min_length=at_least)
    if get_origin(kind) is tuple:
        found = cs.no_info_after_validator_function(tuple, found)
    return _before(_as_list, found, or_else=item) if metadata.get("one") else found


def _mapping(kind: Any, metadata: Mapping[str, Any], at_least: int | None) -> CoreSchema:
    value = _value(kind, inside(metadata))
    inner = metadata.get("inner", ())
    keys = {name: cs.typed_dict_field(value, required=name in inner) for name in inner or metadata.get("keys", ())}
    if keys:
        return _before(_as_mapping, cs.typed_dict_schema(keys, extra_behavior="forbid"))
    return _before(_as_mapping, cs.dict_schema(cs.str_schema(), value, strict=True, min_length=at_least))


def _scalar(kind: Any, metadata: Mapping[str, Any], at_least: int | None) -> CoreSchema:
    bounds = metadata.get("bounds", {})
    if kind is int:
        return cs.int_schema(strict=True, **bounds)
    if kind is float:
        return _before(_as_number, cs.float_schema(strict=True, allow_inf_nan=False, **bounds))
    if kind is bool:
        return _before(_as_switch, cs.bool_schema(strict=True))
    if kind is Any:
        return cs.any_schema()
    assert kind is str, kind
    number, step = ("number", _as_any_text) if metadata.get("numbers") else ("integer", _as_text)
    text = cs.str_schema(strict=True, min_length=at_least, **bounds)
    return _told(_before(step, text), {"type": ["string", number]})


def _before(step: Callable[[Any], Any], schema: CoreSchema, or_else: CoreSchema | None = None) -> CoreSchema:
    """A step before a strict schema. ``or_else``: what it takes besides, as editors must know."""
    found = cs.no_info_before_validator_function(step, schema)
    if or_else is None:
        return found

    def either(whole: CoreSchema, handler: Callable[[CoreSchema], Any]) -> Any:
        said = {key: value for key, value in handler(whole).items() if key == "description"}
        return {"anyOf": [_generated(or_else), _generated(schema)], **said}

    return typing.cast(CoreSchema, {**found, "metadata": {"pydantic_js_functions": [either]}})


def _told(schema: CoreSchema, words: Mapping[str, Any]) -> CoreSchema:
    """What a JSON schema says of a value besides what it checks."""
    metadata = schema.get("metadata", {})
    updates = {**metadata.get("pydantic_js_updates", {}), **words}
    return typing.cast(CoreSchema, {**schema, "metadata": {**metadata, "pydantic_js_updates": updates}})


def _as_section(value: Any) -> Any:
    return {} if value is None else _as_mapping(value)


def _as_mapping(value: Any) -> Any:
    """Every key is a word, also a number."""
    if isinstance(value, dict):
        return {str(key): inner for key, inner in value.items()}
    return value


def _long(value: Any, key: str, accepted: tuple[type, ...]) -> Any:
    if isinstance(value, accepted) and not isinstance(value, bool):
        return {key: value}
    return value


def _as_list(value: Any) -> Any:
    if isinstance(value, str | int) and not isinstance(value, bool):
        return [value]
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


def _as_any_text(value: Any) -> Any:
    return str(value) if isinstance(value, float) else _as_text(value)


def _changed(content: Mapping[str, Any], path: Sequence[str], value: Any) -> Mapping[str, Any]:
    """``content`` with another value behind a path of keys, or with MISSING without that key. What is no mapping on the
    way is left out.
    """
    head, *rest = path
    out = {key: inner for key, inner in content.items() if str(key) != head}
    inner = next((inner for key, inner in content.items() if str(key) == head), None)
    if not rest and value is not MISSING:
        out[head] = value
    elif rest and isinstance(inner, Mapping):
        out[head] = _changed(inner, rest, value)
    return out
