"""The commands of README.md, CONTRIBUTING.md and docs/: where they are, what they need, and what is wrong with them."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, get_args, get_origin

from engine.cli import MODES
from engine.config import schema_keys

ROOT = Path(__file__).resolve().parents[2]
SHELL = ("", "bash", "sh", "console", "shell", "text")
PROGRAMS = {
    *("python", "python3", "torchrun", "deepspeed", "make", "pip", "pre-commit", "tensorboard"),
    *("sbatch", "srun", "squeue", "scancel", "apptainer", "docker", "git", "hf", "nvidia-smi", "apt-get"),
    *(
        ".",
        "source",
        "export",
        "cd",
        "mkdir",
        "cp",
        "rm",
        "ls",
        "cat",
        "grep",
        "date",
        "touch",
        "kill",
        "unzip",
        "head",
    ),
}
MARK = re.compile(r"<!-- (not run|run by): ([^>]+?) -->")
REASONS = ("cluster", "GPU", "network", "long", "your files", "values", "shell")
# what takes a second or two, and changes nothing where it is run again
FAST_MODULES = ("tools.structure", "tools.json_schemas", "tools.reference_pages", "clinical_tasks.pocket")
HEREDOC = re.compile(r"<<-?\s*'?\"?(\w+)'?\"?")
INLINE = re.compile(r"(?<!`)`([^`]+)`(?!`)")
ASSIGNMENT = re.compile(r"[A-Z_]+=")
PLACEHOLDER = re.compile(r"…|\.\.\.|^[A-Z][A-Z0-9_]*$")
# a user's own folders, as the documents call them
OWN = ("my/", "runs/", "notes/", "/shared/", "/weights/", "/data/", "exported/", "pairs.jsonl", "OLD.json", "A.json")


class Command(NamedTuple):
    """A command: its document and line, its words without launcher variables, and the mark that holds for it."""

    where: str
    words: tuple[str, ...]
    mark: tuple[str, str] | None
    fenced: bool

    @property
    def text(self) -> str:
        return shlex.join(self.words)


def documents() -> list[Path]:
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def commands_of(path: Path) -> Iterator[Command]:
    """The commands of a document, in order. A mark holds until the next heading; before the title, everywhere."""
    name = str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else path.name
    always: tuple[str, str] | None = None
    mark: tuple[str, str] | None = None
    titled = False
    fence: str | None = None
    block: list[tuple[int, str]] = []
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        bare = line.strip()
        if fence is not None:
            if bare != "```":
                block.append((number, bare))
                continue
            if fence in SHELL:
                yield from _fenced(name, block, mark or always, strict=fence in ("bash", "sh", "shell"))
            fence, block = None, []
        elif bare.startswith("```"):
            fence = bare.strip("`").strip()
        elif line.startswith("#"):
            titled, mark = True, None
        elif found := MARK.search(line):
            mark = (found[1], found[2])
            always = always if titled else mark
        else:
            yield from _inline(name, number, line, mark or always)


def commands_of_comments(path: Path) -> Iterator[Command]:
    """The commands in comments of a YAML file: behind the sign or a colon to the end of the line, or in backquotes."""
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        comment = line.partition("# ")[2].split("   (")[0]
        for code in (*INLINE.findall(comment), comment.rpartition(": ")[2]):
            for words in split(code):
                if is_program(words) and len(words) > 1:
                    yield Command(f"{path.relative_to(ROOT)}:{number}", words, None, fenced=False)


def _fenced(name: str, block: list[tuple[int, str]], mark: tuple[str, str] | None, strict: bool) -> Iterator[Command]:
    """The commands of a block, lines that go on joined, files that are typed in left out. Other blocks than of a
    shell hold output too: there a line counts if it begins with a program.
    """
    waiting, start, end = "", 0, ""
    for number, line in block:
        if end:
            end = "" if line == end else end
            continue
        start = start if waiting else number
        waiting += line
        if waiting.endswith("\\"):
            waiting = waiting[:-1] + " "
            continue
        heredoc = HEREDOC.search(waiting)
        end = heredoc[1] if heredoc else ""
        for words in split(waiting.removeprefix("$ ")):
            if strict or is_program(words):
                yield Command(f"{name}:{start}", words, mark, fenced=True)
        waiting = ""


def _inline(name: str, number: int, line: str, mark: tuple[str, str] | None) -> Iterator[Command]:
    """Commands within a sentence or a table: code that has a program and something behind it."""
    for code in INLINE.findall(line):
        for words in split(code):
            if is_program(words) and len(words) > 1:
                yield Command(f"{name}:{number}", words, mark, fenced=False)


def split(line: str) -> Iterator[tuple[str, ...]]:
    """The words of each command of a line, without variables before it, comments and marks of what may be left out."""
    lexer = shlex.shlex(line.replace("[", " ").replace("]", " "), posix=True, punctuation_chars=";&|<>")
    lexer.whitespace_split = True
    words: list[str] = []
    try:
        pieces = [*lexer, ";"]
    except ValueError:  # an apostrophe of a sentence
        return
    for piece in pieces:
        if piece in (";", "&&", "|", "||"):
            if words:
                yield tuple(words)
            words = []
        elif piece == "clinical-metaprompt" and not words:  # the installed command
            words += ["python", "train.py"]
        elif words or not ASSIGNMENT.match(piece):
            words.append(piece)


def is_program(words: tuple[str, ...]) -> bool:
    """Whether words begin like a command. `export` is a mode of train.py too, and a sentence can name it."""
    if words[0] == "export":
        return any(ASSIGNMENT.match(word) for word in words[1:])
    return words[0] in PROGRAMS or words[0].startswith("launch_scripts/")


def need_of(command: Command) -> str:
    """What a command needs that a test on a laptop has not, one of REASONS; empty where it is to be run."""
    program, *rest = command.words
    if any(PLACEHOLDER.search(word.rpartition("=")[2]) for word in rest):
        return "values"
    if program in ("sbatch", "srun", "squeue", "scancel", "apptainer", "docker") or "launch_scripts/" in program:
        return "cluster"
    if program in ("pip", "git", "hf", "pre-commit", "apt-get"):
        return "network"
    if program in ("torchrun", "deepspeed", "nvidia-smi") or (program == "make" and rest[:1] and "gpu" in rest[0]):
        return "GPU"
    if any(word.rpartition("=")[2].startswith(OWN) for word in rest) or _has_no_weights(rest):
        return "your files"
    if program == "make":
        return "long"
    if rest[:1] == ["-m"]:
        return "" if rest[1] in FAST_MODULES else "long"
    if rest[:1] != ["train.py"]:
        return "shell"
    return "" if _is_fast(rest[1:]) else "long"


def _is_fast(words: list[str]) -> bool:
    """Whether a command of train.py takes seconds."""
    one_plan = words[:1] == ["plan"] and "--sweep" not in " ".join(words)
    return one_plan or "--help" in words or "--dry_run=true" in words or words[:1] == ["tasks"]


def _has_no_weights(words: list[str]) -> bool:
    """Whether a configuration's backbone card names a folder by a variable, and no other backbone is given."""
    flags = dict(flags_of(words))
    config = ROOT / flags.get("config", "")
    if "backbone" in flags or not config.is_file():
        return False
    card = re.search(r"^backbone: (\S+)", config.read_text(), re.MULTILINE)
    return bool(card) and "$" in (ROOT / card[1]).read_text()


def problems_of(command: Command) -> Iterator[str]:
    """What is wrong with a command, without running it: modes, flags, values, modules, targets, files of the clone."""
    program, *rest = command.words
    if program == "make":
        yield from _wrong_target(rest)
    elif program in ("torchrun", "deepspeed", "python", "python3"):
        words = _behind_launcher(rest)
        if words[:1] == ["-m"]:
            yield from _wrong_module(words[1], words[2:])
        elif words[:1] == ["train.py"]:
            yield from wrong_in_mode(words[1:], whole=command.fenced or len(words) > 2)
    elif program == "srun" and "train.py" in rest:
        yield from wrong_in_mode(_behind_launcher(rest)[1:])
    elif program in ("sbatch", "srun") or program.startswith("launch_scripts/"):
        yield from _wrong_in_job(rest)
    yield from _missing_files(command.words)


def without_launcher(command: Command) -> Command:
    """``torchrun ... train.py MODE`` as ``python train.py MODE``; other commands as they are."""
    words = _behind_launcher(list(command.words))
    is_launched = command.words[0] in ("torchrun", "deepspeed") and words[:1] == ["train.py"]
    return command._replace(words=("python", *words)) if is_launched else command


def _behind_launcher(rest: list[str]) -> list[str]:
    """From train.py or -m on."""
    starts = [rest.index(word) for word in ("train.py", "-m") if word in rest]
    return rest[min(starts) :] if starts else []


def _wrong_target(words: list[str]) -> Iterator[str]:
    makefile = (ROOT / "Makefile").read_text()
    for word in words:
        name, given, _ = word.partition("=")
        if given and not re.search(rf"^{name} *\??=|\$\({name}\)", makefile, re.MULTILINE):
            yield f"the Makefile has no variable {name}"
        elif not given and not word.startswith("-") and not re.search(rf"^{re.escape(word)}:", makefile, re.MULTILINE):
            yield f"the Makefile has no target {word}"


def _wrong_module(module: str, words: list[str]) -> Iterator[str]:
    """A module of the clone must exist; a flag must be named in it, or in a module of its package."""
    top = module.split(".")[0]
    if not (ROOT / top).is_dir():
        return
    base = ROOT / module.replace(".", "/")
    sources = [base.with_suffix(".py")] if base.with_suffix(".py").is_file() else list(base.rglob("*.py"))
    if not sources:
        yield f"there is no module {module}"
        return
    text = "".join(source.read_text() for source in [*sources, *sources[0].parent.glob("*.py")])
    for word in words:
        name = word.partition("=")[0]
        if name.startswith("--") and not re.search(rf"[\"']{name}[\"']|\b{name[2:]}:", text):
            yield f"{module} has no flag {name}"


def wrong_in_mode(words: list[str], whole: bool = True) -> Iterator[str]:
    """A command of train.py: its mode, its flags, the values of configuration keys, and if it is whole the flags that
    it needs.
    """
    if not words or PLACEHOLDER.search(words[0]) or words[0] == "--help":
        return
    if words[0] not in MODES:
        yield f"there is no mode {words[0]}"
        return
    mode = MODES[words[0]]
    flags = flags_of(words[1:])
    given = {name for name, _ in flags}
    shortened = any(PLACEHOLDER.search(word) and "." in word or word == "…" for word in words) or "help" in given
    if whole and not shortened and not given >= set(mode.required):
        yield f"{words[0]} needs {', '.join(f'--{name}' for name in mode.required if name not in given)}"
    if mode.positional and words[1:2] and words[1] not in mode.positional and not words[1].startswith("-"):
        yield f"{words[0]} is followed by one of {', '.join(mode.positional)}"
    for name, value in flags:
        if name in mode.flags or name in ("help", "a.b"):
            continue
        if not mode.takes_config or name not in schema_keys():
            yield f"{words[0]} has no flag --{name}"
        else:
            yield from _wrong_value(name, value)


def flags_of(words: list[str]) -> list[tuple[str, str]]:
    """(name, value) of each flag, written with = or with a space."""
    found = []
    for index, word in enumerate(words):
        if word.startswith("--") and len(word) > 2:
            name, given, value = word[2:].partition("=")
            following = [word for word in words[index + 1 : index + 2] if not word.startswith("--")]
            found.append((name, value if given else " ".join(following)))
    return found


def _wrong_value(name: str, value: str) -> Iterator[str]:
    kind = schema_keys()[name].type
    several = get_origin(kind) is list
    kind = get_args(kind)[0] if several else kind
    for part in value.split(",") if several else [value]:
        choices = tuple(map(str, get_args(kind)))
        if PLACEHOLDER.search(part):
            continue
        if choices and part not in choices:
            yield f"--{name}: {part!r} must be one of {', '.join(choices)}"
        elif kind is int and not re.fullmatch(r"-?\d+", part):
            yield f"--{name}: {part!r} is not a whole number"
        elif kind is bool and part not in ("true", "false", ""):
            yield f"--{name}: {part!r} must be true or false"


def _wrong_in_job(words: list[str]) -> Iterator[str]:
    """Configuration keys behind a job script that runs a mode of its name."""
    scripts = [index for index, word in enumerate(words) if word.startswith("launch_scripts/")]
    if not scripts:
        return
    mode = MODES.get(Path(words[scripts[0]]).stem)
    for name, _ in flags_of(words[scripts[0] + 1 :]):
        if mode is None or (name not in mode.flags and name not in schema_keys()):
            yield f"{words[scripts[0]]} takes no flag --{name}"


def _missing_files(words: tuple[str, ...]) -> Iterator[str]:
    """Paths below a folder of the clone, and requirements files, that do not exist."""
    for word in words:
        for value in word.rpartition("=")[2].split(","):
            top, below, _ = value.partition("/")
            in_clone = top and below and top not in ("runs", "build", "dist", "..", ".") and (ROOT / top).is_dir()
            if (in_clone or value.startswith("requirements")) and not any(ROOT.glob(value.rstrip("/"))):
                yield f"there is no file {value}"
