"""A mode's flags: what they mean, what is wrong with a typed command, and what ``--help`` prints."""

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

from engine import distributed
from engine.config import READERS, RunConfig, known_keys, resolve, schema_keys, unknown_key, value_at
from engine.core import UserError
from strict_yaml import BOUNDS, Leaf

CONFIG = {"config": "YAML run configuration (required); any of its keys can follow as --a.b=value"}
BENCHMARK = {
    "steps": "measured steps (required)",
    "mode": "teach, distill or adapt; default: what the configuration is for",
    "warmup": "steps before that are not counted (default 2)",
    "output": "folder of benchmark.json, .md and .png (default: run_dir with -benchmark behind)",
    "invented": "CONTEXT,ANSWER[,ROWS]: mean tokens of invented rows in place of corpora, and how many a task (512)",
    "shardings": "shardings to hold side by side, comma-separated",
    "sweep": "KEY=VALUE,VALUE…: a value each; several keys apart by ;",
    "alternate": "false: one case after another, each alone in memory",
    "profile": "true: a torch profiler trace of two more steps, and a page on it",
    "compare": "an earlier benchmark.json: exit code 3 if a step is slower now",
    "compare_anyway": "true: although configuration, machine or backbone differ",
    "beside": "peft: after each step one of PEFT on the same samples (teach, distill; one process, replicated)",
}
TYPES = {int: "whole number", float: "number", bool: "true | false", str: "text"}
WIDTH = 118


@dataclass(frozen=True)
class Mode:
    """A mode of train.py. ``flags``: name -> what it means. ``positional``: allowed words after the mode, if any.
    ``reads``: where it takes keys of the run configuration, those of READERS whose keys it reads (by default all).
    """

    help: str
    flags: dict[str, str]
    run: Callable[[dict[str, str], Sequence[str]], None]
    required: tuple[str, ...] = ()
    takes_config: bool = False
    positional: tuple[str, ...] = ()
    reads: tuple[str, ...] = READERS


def listed(text: str | None) -> list[str]:
    """The parts of a comma-separated flag."""
    return [part.strip() for part in (text or "").split(",") if part.strip()]


def separators_and_repetitions(arguments: Sequence[str]) -> list[str]:
    """What Fire would swallow: its separators, and a flag given twice."""
    problems: list[str] = []
    seen: set[str] = set()
    twice: set[str] = set()
    for argument in arguments:
        if argument in ("-", "--"):
            problems.append(f"command line: {argument!r} is not a flag; write --key=value")
        elif argument.startswith("-"):
            name = argument.split("=", 1)[0].lstrip("-").replace("-", "_")
            if name in seen:
                twice.add(name)
            seen.add(name)
    return problems + [f"command line: --{name}: duplicate flag" for name in sorted(twice)]


def asks_for_help(words: Sequence[str], flags: dict[str, str]) -> bool:
    return "help" in flags or "h" in flags or "help" in words


def check(name: str, mode: Mode, words: Sequence[str], flags: dict[str, str]) -> None:
    """Whether a mode can take a command.

    Raises:
        UserError: everything that it cannot.
    """
    known = list(mode.flags)
    if mode.takes_config:
        known += known_keys()
    problems = [f"command line: --{key}: " + unknown_key(key, known) for key in flags if key not in known]
    if problems and mode.takes_config and "config" in flags:  # everything at once: what is wrong in the file too
        of_config = {key: text for key, text in flags.items() if key in known and key not in mode.flags}
        problems += _wrong_in_file(flags["config"], of_config)
    for key in mode.required:
        if key not in flags:
            problems.append(f"command line: --{key}: missing; {mode.flags[key]}")
    if mode.positional and (len(words) != 1 or words[0] not in mode.positional):
        problems.append(
            f"{name}: must be followed by one of {' | '.join(mode.positional)}; got {' '.join(words) or 'nothing'}"
        )
    elif not mode.positional:
        problems += [f"command line: {word!r}: not a flag; write --key=value" for word in words]
    problems += distributed.output_problems(flags)
    if problems:
        raise UserError(problems)


def _wrong_in_file(file: str, overrides: dict[str, str]) -> list[str]:
    try:
        resolve(file, overrides)
    except UserError as error:
        return error.problems
    return []


def print_help(name: str, mode: Mode) -> None:
    """The mode's flags, and of each key that it reads the type or choices, the default and the meaning."""
    print(f"python train.py {name} — {mode.help}\n")
    for word in mode.positional:
        print(f"  {word}")
    for flag, meaning in mode.flags.items():
        print(f"  --{flag:28} {meaning}")
    if mode.takes_config:
        print("\nKeys of the run configuration that it reads:")
        _print_keys(mode.reads)


def _print_keys(readers: Sequence[str]) -> None:
    section = None
    for key, leaf in schema_keys().items():
        if not set(readers) & set(leaf.metadata["modes"]):
            continue
        before, section = section, key.rpartition(".")[0]
        if section != before:
            print()
            if section:
                print(_wrapped(f"{section}: {_first_sentence(section)}"))
        print(f"  --{key:30} {_type(leaf.type)}{_bounds(leaf)}; default: {_shown(leaf.default)}")
        print(_wrapped(leaf.help, "      "))


def _wrapped(text: str, indent: str = "") -> str:
    return textwrap.fill(text, WIDTH, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False)


def _first_sentence(section: str) -> str:
    doc = " ".join((type(value_at(RunConfig(), section)).__doc__ or "").split())
    return doc.partition(". ")[0].rstrip(".") + "."


def _type(kind: Any) -> str:
    """What may stand behind a key."""
    if get_origin(kind) is list:
        return f"{_type(get_args(kind)[0])}; several comma-separated"
    if get_origin(kind) is Literal:
        return " | ".join(map(str, get_args(kind)))
    return TYPES[kind]


def _bounds(leaf: Leaf) -> str:
    """The bounds of a number; text that has to look a certain way says so in its meaning."""
    if leaf.metadata["wrong"]:
        return ""
    return "".join(f", {BOUNDS[name]} {limit:g}" for name, limit in leaf.metadata["bounds"].items())


def _shown(default: Any) -> str:
    """A default as it would be typed."""
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, list):
        return ",".join(map(str, default)) or "none"
    return str(default) or "none"
