"""A JSON schema of the run configuration, with which editors explain, complete and check its keys.

python -m engine.config.json_schema
"""

import json
from pathlib import Path

from engine.config.schema import RunConfig
from strict_yaml import json_schema

FILE = Path(__file__).resolve().parents[2] / "configs" / "run.schema.json"


def text() -> str:
    """The file's content."""
    head = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A run configuration. Written by: python -m engine.config.json_schema",
    }
    return json.dumps(head | json_schema(RunConfig), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    FILE.write_text(text())
    print(f"written {FILE}")
