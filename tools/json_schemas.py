"""JSON schemas of the four kinds of YAML files, with which editors explain, complete and check their keys.

python -m tools.json_schemas            # write configs/schemas/*.schema.json
python -m tools.json_schemas --check    # exit code 1 where one of them is out of date
"""

import argparse
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
    return [kind for kind in KINDS if not file_of(kind).is_file() or file_of(kind).read_text() != text_of(kind)]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.json_schemas", description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 where a file is out of date")
    check = parser.parse_args(arguments).check
    stale = outdated()
    for kind in stale:
        if check:
            print(f"{file_of(kind)}: out of date; run: python -m tools.json_schemas", file=sys.stderr)
        else:
            file_of(kind).parent.mkdir(parents=True, exist_ok=True)
            file_of(kind).write_text(text_of(kind))
            print(f"written {file_of(kind)}")
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
