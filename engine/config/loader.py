"""One strict resolver: YAML file + ``--a.b=value`` flags -> RunConfig, or every problem at once."""

import dataclasses
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import yaml

import strict_yaml
from engine.config.learning_rates import REPLACED, refusal, replaced_in, rms_of_card
from engine.config.renamed import new_key, new_value
from engine.config.schema import RunConfig, schema_keys
from engine.config.validation import impossible
from engine.core import UserError
from strict_yaml import TYPES, UnreadableFile, nearest, parse, read_mapping

NEAR = 0.7  # likeness of a key to one that is meant; below it are other words
UNMISTAKABLE = ("sharding", "deepspeed", "batching")  # keys without a dot that messages name as keys only


def resolve(config_file: str | Path, overrides: Mapping[str, str] | None = None) -> RunConfig:
    """The run configuration of a file, with flags on top.

    Args:
        overrides: dotted key -> text as typed; read by the field's type.

    Raises:
        UserError: every unknown key (with a suggestion), wrong type and impossible value, each with file and key.
    """
    config, problems = read_config(config_file, overrides)
    if config is None or problems:
        raise UserError(problems or "configuration file: missing; name a YAML run configuration")
    return config


def read_config(
    config_file: str | Path, overrides: Mapping[str, str] | None = None
) -> tuple[RunConfig | None, list[str]]:
    """What ``resolve`` reads, and every problem: later checks can go on with the keys that are right.

    A wrong key holds its default in the configuration, which is None where no configuration can be made. Of an empty
    ``config_file`` only the flags are checked: that none is named is for the caller to tell.
    """
    flags = dict(overrides or {})
    if not str(config_file):
        return None, _wrong_flags(flags)
    try:
        content = read_yaml(config_file)
    except UserError as error:
        return None, [*_wrong_flags(flags), *error.problems]
    if _is_study(content):
        return None, [*_wrong_flags(flags), f"{config_file}: {_of_study(content)}"]
    told = []
    for dotted, text in flags.items():
        if dotted not in REPLACED:
            told += _override(content, dotted, text)
    told += _absolute_rates(content, flags, str(config_file))
    config, found = strict_yaml.build(RunConfig, content)
    of_file = []
    for problem in found:
        if problem.key in flags:
            told.append(f"command line: --{problem.key}: {_text(problem)}")
        else:
            of_file.append(f"{config_file}: {_line(problem)}")
    told += of_file
    # a key already told about holds its default here: once is enough
    for line in impossible(config) if config is not None else ():
        if not any(f"{line.partition(':')[0]}:" in earlier for earlier in told):
            told.append(_from(line, flags, config_file))
    return config, told


def _is_study(content: Mapping[str, Any]) -> bool:
    """Whether a file is a study's, whose ``distill`` and ``adapt`` name run configurations."""
    groups = content.keys() & {"distillations", "adaptations"}
    return bool(groups) or any(isinstance(content.get(name), str) for name in ("distill", "adapt"))


def _of_study(content: Mapping[str, Any]) -> str:
    named = []
    for key in ("distill", "adapt"):
        file = content.get(key)
        named.append(f"its {key}: file" + (f" ({file})" if isinstance(file, str) else ""))
    return f"this is a study file, which only the mode study takes; name {' or '.join(named)}"


def _wrong_flags(flags: Mapping[str, str]) -> list[str]:
    """What is wrong with flags whose file cannot be read."""
    content: dict[str, Any] = {}
    told = []
    for dotted, text in flags.items():
        if dotted not in REPLACED:
            told += _override(content, dotted, text)
    _, found = strict_yaml.build(RunConfig, content)
    return told + [f"command line: --{problem.key}: {_text(problem)}" for problem in found if problem.key in flags]


def _from(line: str, flags: Mapping[str, str], config_file: str | Path) -> str:
    """A problem between keys, with the place to change: the flag that gave its first key a value, or another of its
    keys, else the file.
    """
    key = line.partition(":")[0]
    if key in flags:
        return f"command line: --{line}"
    words = set(re.findall(r"[a-z_]+(?:\.[a-z_]+)*", line))
    # `seed` and `backbone` are ordinary words too
    typed = [name for name in flags if name in words and ("." in name or name in UNMISTAKABLE)]
    if typed:
        return f"command line: --{typed[0]}: {line}"
    return f"{config_file}: {line}"


def read_yaml(path: str | Path) -> dict[str, Any]:
    """A YAML mapping; keys may stand once only.

    Raises:
        UserError: everything that keeps the file from being one, with its line.
    """
    try:
        return read_mapping(path)
    except UnreadableFile as error:
        raise UserError(error.told(path, "name an existing YAML file")) from None


def unknown_key(key: str, known: Iterable[str]) -> str:
    """The sentence that every unknown key gets."""
    if renamed := new_key(key):
        return f"unknown key {key!r}; it was renamed to {renamed!r}"
    known = list(known)
    section, dot, leaf = key.rpartition(".")
    if dot and key in known:
        return f"unknown key {key!r}; a file nests it: {section}: {{{leaf}: …}}"
    near = nearest(key, known, NEAR)
    if near is None:  # a leaf without its section
        near = next((k for k in known if k.rpartition(".")[2] == leaf), None)
    return f"unknown key {key!r}; did you mean {near!r}?" if near else f"unknown key {key!r}; see --help"


def read_switch(text: str, where: str, problems: list[str]) -> bool:
    """What ``true`` or ``false`` behind a flag means; anything else is a problem.

    Args:
        where: the flag as a message names it, such as ``command line: --prepare``.
    """
    if text.lower() not in ("true", "false"):
        problems.append(f"{where}: must be true or false; got {text!r}")
    return text.lower() == "true"


def _absolute_rates(content: dict[str, Any], flags: Mapping[str, str], where: str) -> list[str]:
    """A problem for each key of an absolute learning rate, which is taken out of ``content``, with what to write in
    its place.
    """
    in_file, typed = replaced_in(content), {}
    for old, text in flags.items():
        if old in REPLACED:
            several = [part.strip() for part in text.strip("[]").split(",")]
            typed[old] = several if "," in text else text
    if not in_file and not typed:
        return []
    backbone = str(content.get("backbone", ""))
    rms = rms_of_card(backbone) if backbone else None
    for old in in_file:
        section, _, leaf = old.partition(".")
        content[section] = {key: value for key, value in content[section].items() if key != leaf}
        if not content[section]:
            del content[section]
    told = [f"{where}: " + refusal(old, value, rms, backbone) for old, value in in_file.items()]
    return told + ["command line: --" + refusal(old, value, rms, backbone) for old, value in typed.items()]


def _override(content: dict[str, Any], dotted: str, text: str) -> list[str]:
    """Put a flag's value into a file's content. Returns what is wrong with the flag."""
    if dotted not in schema_keys():
        return [f"command line: --{dotted}: " + unknown_key(dotted, schema_keys())]
    kind = schema_keys()[dotted].type
    try:
        value = _typed(kind, text)
    except UnreadableFile:
        return [f"command line: --{dotted}: must be {TYPES.get(kind, 'a list')}"]
    section, _, leaf = dotted.rpartition(".")
    node = content
    if section:
        if not isinstance(content.get(section) or {}, dict):
            return []  # the section is told of as wrong
        node = content[section] = dict(content.get(section) or {})
    node[leaf] = value
    return []


def _typed(kind: Any, text: str) -> Any:
    """What a flag's text means for a field: text stays as typed (2024_01 is a name, not a number); a list is
    ``a,b`` or YAML.
    """
    if get_origin(kind) is list and not text.lstrip().startswith("["):
        return [_typed(get_args(kind)[0], part.strip()) for part in text.split(",") if part.strip()]
    return text if kind is str or get_origin(kind) is Literal else parse(text)


def _text(problem: strict_yaml.Problem) -> str:
    """What is wrong, without the key."""
    if problem.kind == "choice" and (renamed := new_value(problem.value, problem.known)):
        return f"{problem.value!r} was renamed to {renamed!r}"
    return problem.text


def _line(problem: strict_yaml.Problem) -> str:
    """What is wrong, with the key. An unknown one is looked for beside itself, then everywhere."""
    if problem.kind != "unknown":
        return f"{problem.key}: {_text(problem)}"
    section, dot, _ = problem.key.rpartition(".")
    return unknown_key(problem.key, [*(section + dot + name for name in problem.known), *schema_keys()])


def to_yaml(config: RunConfig) -> str:
    """The resolved configuration, every key written out."""
    return yaml.safe_dump(dataclasses.asdict(config), sort_keys=False)


def expand(path: str) -> Path:
    """``~`` and ``$NAME`` replaced.

    Raises:
        UserError: a variable is not set.
    """
    out = os.path.expandvars(os.path.expanduser(path))
    if "$" in out:
        raise UserError(f"{path}: an environment variable in it is not set")
    return Path(out)


def expand_or_tell(path: str, key: str, problems: list[str]) -> Path | None:
    """``expand``, whose problem is added with the key in front."""
    try:
        return expand(path)
    except UserError as error:
        problems += [f"{key}: {problem}" for problem in error.problems]
        return None
