"""JSON schemas of the four kinds of YAML files, with which editors explain, complete and check their keys.

python -m tools.json_schemas            # write configs/schemas/*.schema.json
python -m tools.json_schemas --check    # exit code 1 where one of them is out of date
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from backbones import BackboneCard
from clinical_tasks import card_json_schema
from engine.config import RunConfig
from engine.distributed import DeviceKind
from strict_yaml import json_schema
from tools.written_files import outdated_files, write_or_check

FOLDER = Path(__file__).resolve().parents[1] / "configs" / "schemas"


class Kind(NamedTuple):
    """A kind of file: what it is called, and its schema."""

    title: str
    schema: Callable[[], dict[str, Any]]


KINDS = {
    "run": Kind("A run configuration", lambda: json_schema(RunConfig)),
    "task_card": Kind("A task card", card_json_schema),
    "backbone_card": Kind("A backbone card", lambda: json_schema(BackboneCard)),
    "machine": Kind("A machine", lambda: json_schema(DeviceKind)),
}


def file_of(kind: str) -> Path:
    return FOLDER / f"{kind}.schema.json"


def text_of(kind: str) -> str:
    """The content of a kind's file."""
    head = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"{KINDS[kind].title}. Written by: python -m tools.json_schemas",
    }
    return json.dumps(head | KINDS[kind].schema(), indent=2, ensure_ascii=False) + "\n"


def outdated() -> list[str]:
    """The kinds whose files hold something else than `text_of`, or are not there."""
    return outdated_files(KINDS, file_of, text_of)


def main(arguments: list[str] | None = None) -> int:
    return write_or_check("tools.json_schemas", stale=outdated(), file_of=file_of, text_of=text_of, arguments=arguments)


if __name__ == "__main__":
    sys.exit(main())
