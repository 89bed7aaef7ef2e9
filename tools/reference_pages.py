"""Pages of docs/ that are written from the code: reference of keys, flags and files, and the start page.

python -m tools.reference_pages            # write docs/index.md, docs/reference/{configuration,command_line,cards}.md
python -m tools.reference_pages --check    # exit code 1 where one of them is out of date
"""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from backbones import BackboneCard
from clinical_tasks import card_json_schema
from engine.cli import EXIT_CODES, MODES
from engine.config import RunConfig, schema_keys
from engine.distributed import DeviceKind
from strict_yaml import json_schema
from tools.written_files import outdated_files, write_or_check

DOCS = Path(__file__).resolve().parents[1] / "docs"
NOTE = "<!-- Written by: python -m tools.reference_pages -->\n"
BOUNDS = {"exclusiveMinimum": ">", "minimum": ">=", "exclusiveMaximum": "<", "maximum": "<="}
MANY = 12  # choices that a cell does not list
TYPES = {"string": "text", "integer": "whole number", "number": "number", "boolean": "true, false", "object": "mapping"}


class Key(NamedTuple):
    """A key of a file: its dotted name, its JSON schema, and whether the file must have it."""

    name: str
    schema: Mapping[str, Any]
    required: bool


def keys_of(schema: Mapping[str, Any], prefix: str = "") -> Iterator[Key]:
    """The keys of a JSON schema, those of mappings in it behind their mapping. Keys of a mapping that are all alike are
    one: ``splits.{train,validation,test}``.
    """
    required = schema.get("required", schema.get("else", {}).get("required", ()))
    properties = dict(schema.get("properties", {}))
    kinds = list(properties.values())
    if len(kinds) > 1 and all(kind == kinds[0] for kind in kinds):
        needed = set(properties) <= set(required)
        properties = {f"{{{','.join(properties)}}}": kinds[0]}
        required = properties if needed else ()
    for name, inner in properties.items():
        yield Key(prefix + name, inner, name in required)
        for part in inner.get("anyOf", [inner]):
            yield from keys_of(part, f"{prefix}{name}.")


def values(schema: Mapping[str, Any]) -> str:
    """What a key may hold, in words."""
    if len(schema.get("enum", ())) > MANY:
        return f"one of {len(schema['enum'])} names"
    if "enum" in schema:
        return ", ".join(code(choice) for choice in schema["enum"])
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(values(part) for part in schema["anyOf"] if part.get("type") != "null"))
    kind = schema.get("type", "text")
    if not isinstance(kind, str):
        return " or ".join(TYPES[one] for one in kind if one != "null" and not ("string" in kind and one == "integer"))
    if kind == "array":
        return "list of: " + values(schema.get("items", {}))
    bounds = " and ".join(f"{sign} {schema[name]:g}" for name, sign in BOUNDS.items() if shown_bound(schema.get(name)))
    return " ".join(filter(None, (TYPES[kind], bounds)))


def shown_bound(bound: float | None) -> bool:
    """Whether a bound is said: not where it is only the size of a machine word."""
    return bound is not None and abs(bound) < 2**62


def code(value: Any) -> str:
    """A value as a file has it."""
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return f"`{text}`".replace("\n", "\\n").replace("|", "\\|")


def default(key: Key) -> str:
    """The default of a key in a table's cell."""
    if key.required:
        return "required"
    value = key.schema.get("default")
    if value is None or key.schema.get("properties"):
        return ""
    if value in ("", [], {}):
        return "empty"
    return code(", ".join(map(str, value)) if isinstance(value, list) else value)


def cell(text: str) -> str:
    """Text in a table's cell."""
    parts = " ".join(text.split()).replace("|", "\\|").replace("``", "`").split("`")
    for index in range(0, len(parts), 2):  # outside code
        parts[index] = parts[index].replace("*", "\\*").replace("<", "&lt;")
    return "`".join(parts)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table without padding, so that no line is longer than its text."""
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))


def lines(*sentences: str) -> str:
    """A paragraph, a line for each sentence."""
    return "\n".join(sentences)


def configuration() -> Iterator[str]:
    """The page of the run configuration."""
    yield "# Configuration keys"
    yield lines(
        "Every key can be in a YAML file or on the command line, as `--section.key=value`.",
        "An unknown key is an error. The message suggests the nearest known key.",
    )
    yield lines(
        "*Read by* names the modes that read a key. `plan`, `benchmark` and `study` read what the planned mode reads.",
        "*On resume* says whether a key may change between a checkpoint and its resumption.",
        "A `free` key may change. A `fixed` key may not, unless `accept_changes` is true.",
    )
    schema = json_schema(RunConfig)
    plain = {name: inner for name, inner in schema["properties"].items() if inner.get("type") != "object"}
    yield "## Keys outside sections"
    yield configuration_table(keys_of({"properties": plain}))
    for section, inner in schema["properties"].items():
        if section not in plain:
            yield f"## {section}"
            yield " ".join(inner.get("description", "").split())
            yield configuration_table(keys_of(inner, f"{section}."))


def configuration_table(keys: Iterable[Key]) -> str:
    known = schema_keys()
    rows = []
    for key in keys:
        said = known[key.name].metadata
        readers = ", ".join(said["modes"])
        cells = (
            code(key.name),
            values(key.schema),
            default(key),
            readers,
            said["on_resume"],
            cell(known[key.name].help),
        )
        rows.append(cells)
    return table(["key", "values", "default", "read by", "on resume", "meaning"], rows)


def command_line() -> Iterator[str]:
    """The page of the modes, their flags and the exit codes."""
    yield "# Command line"
    yield "```\npython train.py MODE [--flag=value ...]\n```"
    yield lines(
        "`python train.py MODE --help` prints the flags of a mode and the configuration keys that it reads.",
        "A flag can be written as `--flag=value` or `--flag value`. Several values are separated by commas.",
        "`torchrun` starts a mode on several GPUs: `torchrun --nproc_per_node 8 -- train.py MODE ...`.",
    )
    yield table(["mode", "what it does"], [(f"[{name}](#{name})", cell(m.help)) for name, m in MODES.items()])
    for name, mode in MODES.items():
        yield f"## {name}"
        words = f" {'|'.join(mode.positional)}" if mode.positional else ""
        required = "".join(f" --{flag}=..." for flag in mode.required)
        yield f"```\npython train.py {name}{words}{required}\n```"
        yield table(
            ["flag", "required", "meaning"],
            [
                (code(f"--{flag}"), "yes" if flag in mode.required else "", cell(text))
                for flag, text in mode.flags.items()
            ],
        )
        if mode.takes_config:
            yield "It also takes the [configuration keys](configuration.md) that it reads, as flags."
    yield "## Exit codes"
    yield table(["exit code", "meaning"], [(str(number), text) for number, text in EXIT_CODES.items()])
    yield lines(
        "`torchrun` answers 1 for every failed worker.",
        "The program's own message is the line that starts with `error:`, above the summary of `torchrun`.",
    )


def cards() -> Iterator[str]:
    """The page of task cards, backbone cards and machine files."""
    yield "# Task cards, backbone cards and machine files"
    yield lines(
        "These YAML files are read strictly: an unknown key is an error.",
        "`configs/schemas/` has a JSON schema of each, with which editors complete and check the keys.",
    )
    yield "## Task card"
    yield lines(
        "A task card describes a corpus as a task. [Tasks and data](data.md) explains the keys with examples.",
        "A card that has `extends` needs no other key.",
    )
    yield card_table(card_json_schema())
    yield "## Backbone card"
    yield "A backbone card names a frozen model. Exactly one of `path` and `random` is required."
    yield card_table(json_schema(BackboneCard))
    yield "## Machine file"
    yield "A machine file describes a kind of GPU in its node, for `plan --gpu`. The rates are per second and device."
    yield card_table(json_schema(DeviceKind))


def card_table(schema: Mapping[str, Any]) -> str:
    rows = []
    for key in keys_of(schema):
        rows.append((code(key.name), values(key.schema), default(key), cell(key.schema.get("description", ""))))
    return table(["key", "values", "default", "meaning"], rows)


KINDS = {
    "tutorials": ("Tutorials", "From a small corpus of your own to a trained prompt, step by step."),
    "how_to": ("How-to guides", "One question each: how to run, plan, measure, export or extend."),
    "explanation": ("Explanation", "How the method works, why it is fast, and how the code is arranged."),
    "reference": ("Reference", "Every configuration key, flag, card and exported name, and the words."),
    "evidence": ("Evidence", "What was measured: scores, speed and fault-injection tests."),
}


def index() -> Iterator[str]:
    """The start page: all documents, by kind."""
    yield "# Documentation"
    yield lines(
        "The program distils one soft prompt, the *metaprompt*, from many clinical tasks.",
        "A new task adapts it and trains a few thousand parameters. The language model stays frozen.",
        "The [README](../README.md) shows a first run.",
    )
    for kind, (title, about) in KINDS.items():
        files = sorted((DOCS / kind).glob("*.md"))
        generated = [file_of(page) for page in PAGES if page.startswith(f"{kind}/")]
        links = [f"- [{title_of(file)}]({kind}/{file.name})" for file in sorted({*files, *generated})]
        if links:
            yield f"## {title}"
            yield about
            yield "\n".join(links)


def title_of(file: Path) -> str:
    """A document's first heading; of a generated page that is not there yet, what it will be."""
    page = str(file.relative_to(DOCS).with_suffix(""))
    text = next(PAGES[page]()) if page in PAGES else file.read_text()
    return text.partition("\n")[0].removeprefix("# ")


PAGES: dict[str, Callable[[], Iterator[str]]] = {
    "reference/configuration": configuration,
    "reference/command_line": command_line,
    "reference/cards": cards,
    "index": index,
}


def file_of(page: str) -> Path:
    return DOCS / f"{page}.md"


def text_of(page: str) -> str:
    """The content of a page's file."""
    head, *blocks = PAGES[page]()
    return "\n\n".join([head, NOTE.rstrip(), *filter(None, blocks)]) + "\n"


def outdated() -> list[str]:
    """The pages whose files hold something else than `text_of`, or are not there."""
    return outdated_files(PAGES, file_of, text_of)


def main(arguments: list[str] | None = None) -> int:
    return write_or_check(
        "tools.reference_pages", stale=outdated(), file_of=file_of, text_of=text_of, arguments=arguments
    )


if __name__ == "__main__":
    sys.exit(main())
