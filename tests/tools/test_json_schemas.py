"""The JSON schemas are up to date, describe every key, accept the files of the clone and refuse keys of no kind."""

import dataclasses
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from backbones import BackboneCard
from clinical_tasks.readers import READER_OPTIONS
from clinical_tasks.schema import TaskCard
from engine.config import RunConfig, schema_keys
from engine.distributed import DeviceKind
from strict_yaml import fields_of, leaves, read_mapping
from tools import json_schemas

CLASSES = {"run": RunConfig, "task_card": TaskCard, "backbone_card": BackboneCard, "machine": DeviceKind}
TYPES = {
    "object": dict,
    "array": list,
    "string": str,
    "integer": int,
    "number": int | float,
    "boolean": bool,
    "null": type(None),
}
LINE = "# yaml-language-server: $schema="


def schema_of(kind: str) -> dict[str, Any]:
    return json.loads(json_schemas.text_of(kind))


def files_of(kind: str, project: Path) -> list[Path]:
    """The files of a kind in the clone. The names and folders are those of docs/ and of the tests of each kind."""
    configs = project / "configs"
    cards = [*configs.glob("*/cards/*.yaml"), *(project / "clinical_tasks").rglob("cards/*.yaml")]
    backbones = [*configs.glob("*/backbone.yaml"), *configs.glob("*/shape.yaml"), *configs.glob("tiny/*.yaml")]
    backbones += (project / "backbones/pocket").glob("*.yaml")
    machines = list((configs / "machines").glob("*.yaml"))
    if kind == "run":
        return [*configs.glob("*/distill.yaml"), *configs.glob("*/adapt.yaml")]
    return {"task_card": cards, "backbone_card": backbones, "machine": machines}[kind]


def refused(schema: dict[str, Any], value: Any, at: str = "") -> Iterator[str]:
    """The places where a value is not as the schema says; of JSON schema, the words that ours use."""
    known = {"type", "enum", "anyOf", "properties", "additionalProperties", "required", "items", "if", "else"}
    limits = {"minLength", "minItems", "minProperties", "pattern"}
    bounds = {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}
    assert schema.keys() <= known | limits | bounds | {"$schema", "title", "description", "default"}, schema.keys()
    kinds = schema.get("type", list(TYPES))
    fits = any(isinstance(value, TYPES[k]) for k in ([kinds] if isinstance(kinds, str) else kinds))
    if not fits or ("boolean" not in kinds and isinstance(value, bool)):
        yield f"{at}: {value!r} is no {kinds}"
        return
    if "enum" in schema and value not in schema["enum"]:
        yield f"{at}: {value!r} is no choice"
    if "anyOf" in schema and all(any(refused(part, value, at)) for part in schema["anyOf"]):
        yield f"{at}: none fits"
    if isinstance(value, str):
        if len(value) < schema.get("minLength", 0) or not re.search(schema.get("pattern", ""), value):
            yield f"{at}: {value!r} does not fit"
    elif isinstance(value, list):
        for item in value:
            yield from refused(schema.get("items", {}), item, at)
    elif isinstance(value, dict):
        yield from _refused_keys(schema, value, at)
    elif isinstance(value, int | float):
        above, below = schema.get("exclusiveMinimum", -1), schema.get("exclusiveMaximum", 1e99)
        if not above < value < below or value < schema.get("minimum", value) or value > schema.get("maximum", value):
            yield f"{at}: {value} is out of bounds"


def _refused_keys(schema: dict[str, Any], value: dict[str, Any], at: str) -> Iterator[str]:
    if "if" in schema and set(schema["if"]["required"]) - value.keys():
        yield from (f"{at}: {key} is missing" for key in schema["else"]["required"] if key not in value)
    yield from (f"{at}: {key} is missing" for key in schema.get("required", ()) if key not in value)
    others = schema.get("additionalProperties", True)
    for key, inner in value.items():
        if key in schema.get("properties", {}):
            yield from refused(schema["properties"][key], inner, f"{at}.{key}")
        elif isinstance(others, dict):
            yield from refused(others, inner, f"{at}.{key}")
        elif not others:
            yield f"{at}.{key}: unknown"


def in_yaml_1_2(value: Any) -> Any:
    """As editors read it: PyYAML takes 1e-3 for text."""
    if isinstance(value, dict):
        return {str(key): in_yaml_1_2(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [in_yaml_1_2(inner) for inner in value]
    return float(value) if isinstance(value, str) and re.fullmatch(r"[0-9.]+e[-+]?[0-9]+", value) else value


def objects(schema: Any) -> Iterator[dict[str, Any]]:
    """Every schema of a mapping in a schema."""
    if isinstance(schema, list):
        for inner in schema:
            yield from objects(inner)
    elif isinstance(schema, dict):
        if schema.get("type") == "object":
            yield schema
        for inner in schema.values():
            yield from objects(inner)


def test_the_files_are_up_to_date_and_there_are_no_others() -> None:
    assert json_schemas.outdated() == [], "run: python -m tools.json_schemas"
    assert {path.name for path in json_schemas.FOLDER.iterdir()} == {f"{kind}.schema.json" for kind in CLASSES}


def test_check_tells_what_is_out_of_date_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(json_schemas, "FOLDER", tmp_path / "schemas")
    assert json_schemas.main(["--check"]) == 1 and not (tmp_path / "schemas").exists()
    assert json_schemas.main([]) == 0 and json_schemas.main(["--check"]) == 0
    (tmp_path / "schemas" / "machine.schema.json").write_text("{}\n")
    capsys.readouterr()
    assert json_schemas.main(["--check"]) == 1
    told = capsys.readouterr().err
    assert told == f"{tmp_path}/schemas/machine.schema.json: out of date; run: python -m tools.json_schemas\n"


@pytest.mark.parametrize("kind", CLASSES)
def test_a_schema_names_the_keys_of_the_dataclass_with_their_meaning(kind: str) -> None:
    properties = dict(schema_of(kind)["properties"])
    if kind == "task_card":
        assert "pubmedqa" in properties.pop("extends")["enum"]
    assert list(properties) == list(fields_of(CLASSES[kind]))
    for key, leaf in leaves(CLASSES[kind]).items():
        if "." not in key:
            assert leaf.help and properties[key]["description"] == leaf.help, key


def test_the_schema_of_runs_names_every_key_with_its_meaning_and_default() -> None:
    properties = schema_of("run")["properties"]
    for key, leaf in schema_keys().items():
        section, _, name = key.rpartition(".")
        of_key = (properties[section]["properties"] if section else properties)[name]
        assert of_key["description"] == leaf.help and of_key["default"] == leaf.default, key


@pytest.mark.parametrize("kind", CLASSES)
def test_every_mapping_is_closed_or_says_of_which_values_it_is(kind: str) -> None:
    found = list(objects(schema_of(kind)))
    free = [one for one in found if one.get("additionalProperties", True) is True]
    # a backbone card's `random` is a configuration of transformers
    assert len(free) == (kind == "backbone_card") and len(found) > 1


@pytest.mark.parametrize("kind", CLASSES)
def test_a_schema_accepts_every_file_of_its_kind_in_the_clone(kind: str, project: Path) -> None:
    files = files_of(kind, project)
    assert len(files) >= {"run": 12, "task_card": 60, "backbone_card": 8, "machine": 4}[kind]
    for path in files:
        assert list(refused(schema_of(kind), in_yaml_1_2(read_mapping(path)))) == [], path


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"lables": {}}, ".lables"),
        ({"splits": {"tset": "a"}}, ".splits.tset"),
        ({"splits": {"test": {"fils": "a"}}}, ".splits.test"),
        ({"splits": {"test": {"hold_out": {"from": "train", "fraction": 1}}}}, ".splits.test"),
        ({"options": {"columns": "a", "gold": "letter", "x": 1}}, ".options"),
        ({"reader_options": {"delimeter": ";"}}, ".reader_options.delimeter"),
        ({"relations": {"level": "mentions"}}, ".relations.level"),
        ({"published": {"test": {"pages": 1}}}, ".published.test"),
        ({"type": "qna"}, ".type"),
        ({"name": "a b"}, ".name"),
    ],
)
def test_the_schema_of_cards_refuses_what_the_loader_refuses(change: dict[str, Any], place: str) -> None:
    found = list(refused(schema_of("task_card"), {"extends": "pubmedqa", **change}))
    assert len(found) == 1 and found[0].startswith(f"{place}: "), found


def test_a_card_without_extends_needs_its_keys() -> None:
    required = [key for key, f in fields_of(TaskCard).items() if f.default is f.default_factory is dataclasses.MISSING]
    assert schema_of("task_card")["else"]["required"] == required
    assert len(list(refused(schema_of("task_card"), {"name": "a"}))) == len(required) - 1


def test_options_of_readers_that_share_a_name_are_the_same() -> None:
    seen: dict[str, Any] = {}
    for described in READER_OPTIONS.values():
        for key, f in fields_of(described).items():
            assert seen.setdefault(key, (f.type, f.metadata)) == (f.type, f.metadata), key


def test_the_schema_that_a_file_names_is_its_kind_s(project: Path) -> None:
    for kind in CLASSES:
        for path in files_of(kind, project):
            for line in path.read_text().splitlines():
                if line.startswith(LINE):
                    named = (path.parent / line.removeprefix(LINE)).resolve()
                    assert named == json_schemas.file_of(kind), path
