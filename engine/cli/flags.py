"""A mode's flags: what they mean, what is wrong with a typed command, and what ``--help`` prints."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

from engine import config, distributed
from engine.cli.arguments import Typed, flag_problem, word_problem
from strict_yaml import BOUNDS, Leaf

CONFIG = {"config": "YAML run configuration (required); any of its keys can be set with --a.b=value"}
RUN = "run directory (required); keys of its configuration can be set with --a.b=value"
ONLY_TASKS = "only these tasks, comma-separated"
BENCHMARK = {
    "steps": "number of measured steps (required)",
    "mode": "teach, distill or adapt (default: distill; adapt where the configuration names only targets)",
    "warmup": "warm-up steps, not measured (default 2)",
    "output": "folder of benchmark.json, .md and .png (default: run_dir with the suffix -benchmark)",
    "invented": "CONTEXT,ANSWER[,ROWS]: invented rows in place of corpora: mean tokens of context and answer, "
    "and the number of rows per task (default 512)",
    "shardings": "shardings to compare, comma-separated",
    "sweep": "KEY=VALUE,VALUE…: one case for each value; separate several keys with ;",
    "alternate": "false: measure one case after another, each alone in memory",
    "profile": "true: also write a torch profiler trace of two more steps, and a page that summarises it",
    "compare": "an earlier benchmark.json to compare with; exit code 3 if a step is slower now",
    "compare_anyway": "true: compare even if configuration, machine or backbone differ",
    "beside": "peft: after each step, one step of PEFT on the same samples (teach, distill; one process, replicated)",
}
# what to do about a required flag that is missing; where two modes differ, under the name of the mode too
FIXES = {
    "config": "name a YAML run configuration, such as configs/demo/distill.yaml",
    "adapt config": "name a YAML run configuration, such as configs/demo/adapt.yaml",
    "study config": "name a YAML protocol, such as configs/pocket/study.yaml",
    "run": "name the run directory of a finished run",
    "report runs": "name run directories, separated by commas",
    "merge runs": "name the run directories of finished adaptations, separated by commas",
    "task": "name one of the run's tasks",
    "input": "name a .txt file, a folder of .txt files or a .jsonl file",
    "output": "name a new folder",
    "predict output": "name a .jsonl file, or for NER a folder (end it with /)",
    "format": "write peft, peft_collapsed or vllm",
    "steps": "give the number of steps to measure, such as 20",
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
    reads: tuple[str, ...] = config.READERS


def listed(text: str | None) -> list[str]:
    """The parts of a comma-separated flag."""
    return [part.strip() for part in (text or "").split(",") if part.strip()]


def switches(mode: Mode) -> set[str]:
    """Flags that are true or false, and mean true without a value."""
    found = {name for name, meaning in mode.flags.items() if meaning.startswith(("true:", "false:"))}
    if mode.takes_config:
        found.update(key for key, leaf in config.schema_keys().items() if leaf.type is bool)
    return found


def known_flags(mode: Mode) -> list[str]:
    """The mode's own flags, then the keys of the run configuration that it takes."""
    return [*mode.flags, *(config.known_keys() if mode.takes_config else ())]


def divided(mode: Mode, flags: dict[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """Known flags with their values: the mode's own, and keys of the run configuration."""
    own = {name: text for name, text in flags.items() if name in mode.flags}
    keys = {name: text for name, text in flags.items() if name not in own and name in known_flags(mode)}
    return own, keys


def problems_of(name: str, mode: Mode, typed: Typed) -> list[str]:
    """What is wrong with the flags of a command by themselves: unknown, missing, empty, not true or false, or not
    flags at all.
    """
    known = known_flags(mode)
    problems = list(typed.problems)
    for key in typed.flags:
        if key not in known:
            told = flag_problem(key, switches(mode))
            problems.append(told or f"command line: --{key}: " + config.unknown_key(key, known))
    for key in mode.required:
        if key in typed.without_value:
            continue
        if key not in typed.flags:
            problems.append(f"command line: --{key}: missing; {fix_of(name, key)}")
        elif not typed.flags[key].strip():
            problems.append(f"command line: --{key}: is empty; {fix_of(name, key)}")
    for key in typed.flags:
        if key in mode.flags and key in switches(mode):
            config.read_switch(typed.flags[key], f"command line: --{key}", problems)
    if mode.positional and (len(typed.words) != 1 or typed.words[0] not in mode.positional):
        found = " ".join(typed.words) or "nothing"
        problems.append(f"command line: {name}: must be followed by one of {' | '.join(mode.positional)}; got {found}")
    elif not mode.positional:
        problems += [word_problem(word, known) for word in typed.words]
    return problems + distributed.output_problems(typed.flags)


def fix_of(name: str, key: str) -> str:
    """What to do about a required flag of a mode that is missing or empty."""
    return FIXES.get(f"{name} {key}") or FIXES[key]


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
    for key, leaf in config.schema_keys().items():
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
    import textwrap

    return textwrap.fill(text, WIDTH, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False)


def _first_sentence(section: str) -> str:
    doc = " ".join((type(config.value_at(config.RunConfig(), section)).__doc__ or "").split())
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
