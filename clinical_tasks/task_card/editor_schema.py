"""A JSON schema of a card's file: the described keys, and what the loader knows besides of `extends` and readers."""

from __future__ import annotations

import dataclasses
from typing import Any

from clinical_tasks.readers import READER_OPTIONS
from clinical_tasks.schema import TaskCard
from clinical_tasks.task_card.load import embedded_names
from strict_yaml import json_schema


def card_json_schema() -> dict[str, Any]:
    """For editors, which explain, complete and check a card's keys with it."""
    schema = json_schema(TaskCard)
    schema["description"] = (
        "A corpus as a task: where its files are, their format, the input and the scores. See docs/reference/data.md"
    )
    properties = schema["properties"]
    extends = {
        "description": "An embedded card to start from; each top-level key given here replaces that card's.",
        "enum": embedded_names(),
    }
    schema["properties"] = {"extends": extends, **properties}
    schema["if"] = {"required": ["extends"]}
    schema["else"] = {"required": schema.pop("required")}
    properties["reader"] = {
        "description": properties["reader"]["description"],
        "enum": list(READER_OPTIONS),
        "type": "string",
    }
    properties["reader_options"] |= _reader_options()
    return schema


def _reader_options() -> dict[str, Any]:
    """The options of all readers: which of them a card's reader knows, the loader tells. Their defaults are left out,
    since readers differ in them.
    """
    options: dict[str, Any] = {}
    for described in READER_OPTIONS.values():
        assert dataclasses.is_dataclass(described)
        options |= json_schema(described).get("properties", {})
    for option in options.values():
        option.pop("default", None)
    return {"properties": options, "additionalProperties": False}
