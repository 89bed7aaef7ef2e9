"""The words of a command line: the mode, its flags with their values, and what cannot be understood.

Fire reads a command only after this has: it takes ``--nodes`` for the negation of ``--des``, keeps the last of two
equal flags, and gives a flag without a value the value True.
"""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from strict_yaml import did_you_mean

HELP = ("help", "h")
# flags of torchrun and of deepspeed's launcher, which stand before train.py
LAUNCHER_FLAGS = (
    "nnodes",
    "nproc_per_node",
    "standalone",
    "rdzv_backend",
    "rdzv_endpoint",
    "rdzv_id",
    "node_rank",
    "master_addr",
    "master_port",
    "max_restarts",
    "num_gpus",
    "num_nodes",
    "hostfile",
    "local_rank",
)
_FLAG = re.compile(r"-{1,2}[A-Za-z_]")  # -1 is a value


@dataclass
class Typed:
    """A command as typed: the words behind the mode, flag -> value, and the problems of its form."""

    words: list[str] = field(default_factory=list)
    flags: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    without_value: set[str] = field(default_factory=set)  # told of among the problems

    def asks_for_help(self) -> bool:
        return "help" in self.words or any(name in self.flags for name in HELP)

    def for_fire(self) -> list[str]:
        """The same command in the one form that Fire cannot read otherwise."""
        return [*self.words, *(f"--{name}={value}" for name, value in self.flags.items())]


def parse(
    arguments: Sequence[str], known: Collection[str], switches: Collection[str], words: Collection[str] = ()
) -> Typed:
    """Read what stands behind the mode: ``--key=value``, ``--key value``, and ``--switch`` alone for true.

    Args:
        known: flags that the mode has. switches: of them those that are true or false.
        words: words with a meaning of their own, which are not the value of a switch in front of them.
    """
    typed = Typed()
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        if argument in ("-", "--"):
            typed.problems.append(f"command line: {argument!r} has no meaning here; remove it")
        elif not _FLAG.match(argument):
            typed.words.append(argument)
        else:
            _take_flag(argument, rest, typed, known=known, switches=switches, words={*words, *HELP})
    return typed


def _take_flag(
    argument: str,
    rest: list[str],
    typed: Typed,
    *,
    known: Collection[str],
    switches: Collection[str],
    words: Collection[str],
) -> None:
    """Add one flag to ``typed``, with the next word as its value where it has none of its own."""
    name, equals, value = argument.partition("=")
    name = name.lstrip("-").replace("-", "_")
    if not equals and name not in HELP:
        follows = bool(rest) and rest[0] not in ("-", "--") and not _FLAG.match(rest[0])
        if name in switches:
            # --overwrite seed=1: a flag whose dashes were forgotten, which has a message of its own
            mistyped = follows and "=" in rest[0] and _key_of(rest[0]) in known
            value = rest.pop(0) if follows and rest[0] not in words and not mistyped else "true"
        elif follows:
            value = rest.pop(0)
        elif name in known:
            typed.problems.append(f"command line: --{name}: needs a value; write --{name}=VALUE")
            typed.without_value.add(name)
            return
    if name in typed.flags and name not in HELP:
        typed.problems.append(
            f"command line: --{name}: duplicate flag, with {typed.flags[name]!r} and {value!r}; keep one of them"
        )
    typed.flags.setdefault(name, value)


def word_problem(word: str, known: Collection[str]) -> str:
    """What is wrong with a word that is no flag, and how to write it."""
    key, equals = _key_of(word), "=" in word
    if equals and key in known:
        return f"command line: {word!r}: not a flag; write --{word}"
    if not equals and key in known:
        return f"command line: {word!r}: not a flag; write --{key}=VALUE"
    if "config" in known and word.endswith((".yaml", ".yml")):
        return f"command line: {word!r}: not a flag; write --config={word}"
    return f"command line: {word!r}: not a flag; write --key=value"


def _key_of(word: str) -> str:
    """The key of ``key=value``, or of a word alone."""
    return word.lstrip("-").partition("=")[0].replace("-", "_")


def flag_problem(name: str, switches: Collection[str]) -> str | None:
    """The sentence of an unknown flag that users of launchers and of other programs type; None for any other."""
    if name in LAUNCHER_FLAGS:
        return (
            f"command line: --{name}: belongs to the launcher; write it before train.py: torchrun --{name}=… train.py"
        )
    positive = name.removeprefix("no").lstrip("_")
    if name != positive and positive in switches:
        return f"command line: --{name}: unknown flag; write --{positive}=false"
    return None


def later_mode(first: str, rest: Sequence[str], modes: Collection[str]) -> int | None:
    """Where in ``rest`` the mode stands of a command that begins with the flag ``first``; None: nowhere.

    A word behind a flag may be its value, as in ``--mode adapt benchmark``: it counts only if no other word is a mode.
    """
    found = [place for place, word in enumerate(rest) if word in modes]
    for place in found:
        before = rest[place - 1] if place else first
        if not _FLAG.match(before) or "=" in before:
            return place
    return found[0] if found else None


def mode_problem(first: str, rest: Sequence[str], modes: Collection[str]) -> str:
    """What is wrong with the first word of a command, which is no mode."""
    listed = f"(modes: {', '.join(modes)})"
    if first.startswith("-"):
        name = first.partition("=")[0]
        later = later_mode(first, rest, modes)
        if later is not None:
            return f"command line: {name}: the mode comes first: python train.py {rest[later]} {first} …"
        return f"command line: {name}: the mode is missing; write python train.py MODE {first} … {listed}"
    return f"command line: unknown mode {first!r}{did_you_mean(first, modes, 0.55)} {listed}"
