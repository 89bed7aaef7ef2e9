"""The backbone card: which frozen model, which tokenizer, which template. One YAML file."""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from strict_yaml import UnreadableFile, about, build, read_mapping

# what decides no value of the weights and no token: where the files lie, how they are shown and computed with
APART = ("name", "attention", "path", "tokenizer", "trust_remote_code", "instruction_first", "dummy", "dequantize")


class BackboneError(ValueError):
    """The backbone cannot be used as asked: one line a problem, each with its fix."""

    def __init__(self, problems: list[str] | str):
        self.problems = [problems] if isinstance(problems, str) else problems
        super().__init__("\n".join(self.problems))


@dataclass(frozen=True)
class BackboneCard:
    """Exactly one of ``path`` and ``random`` is given."""

    name: str = field(metadata=about("Short name for tables.", missing="give the backbone a short name"))
    path: str = field(
        default="",
        metadata=about("Local folder with config.json and safetensors files, as released. Nothing is ever downloaded."),
    )
    random: dict[str, Any] = field(
        default_factory=dict,
        metadata=about(
            "A transformers configuration (model_type and its keys) in place of path. The weights are drawn from the "
            "seed, so scores are meaningless."
        ),
    )
    seed: int = field(default=0, metadata=about("Seed of the random weights."))
    tokenizer: str = field(
        default="",
        metadata=about("A folder that transformers can read, or a sentencepiece .model file. Default: path."),
    )
    template: Literal["none", "chat", "harmony"] = field(
        default="none",
        metadata=about(
            "How input and answer are laid out: none (BOS input separator answer EOS), chat (the tokenizer's chat "
            "template), harmony (gpt-oss)."
        ),
    )
    separator: str = field(default="\n\n", metadata=about("Text between input and answer, with template: none."))
    dtype: Literal["float32", "bfloat16"] = field(
        default="bfloat16", metadata=about("Data type of the frozen weights.")
    )
    trust_remote_code: bool = field(
        default=False,
        metadata=about(
            "Run the Python code in the tokenizer's folder. A model's own code is never run: its family must be part "
            "of the installed transformers."
        ),
    )
    instruction_first: bool = field(
        default=False,
        metadata=about(
            "Put a written instruction before BOS, like a soft prompt, when it is scored for comparison (pocket "
            "backbones). Otherwise it begins the input."
        ),
    )
    attention: str = field(
        default="", metadata=about("attn_implementation of transformers. Default: that of the model family.")
    )
    dummy: bool = field(
        default=False,
        metadata=about(
            "Read only config.json from path and draw the weights from the seed: full shapes for benchmarks, "
            "meaningless scores. A GPU draws its own values, which differ from a CPU's."
        ),
    )
    dequantize: bool = field(
        default=False,
        metadata=about(
            "Convert MXFP4 experts to dtype while loading, for comparison. The values are the same, but take three "
            "times the memory."
        ),
    )

    def fingerprint(self) -> str:
        """sha256 over what decides the weights' values and the token layout, wherever the files lie (their content
        is hashed apart).
        """
        content = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in APART}
        if self.dummy:
            content["dummy"] = True
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def load_backbone_card(path: str | Path) -> BackboneCard:
    """Read and check a card; relative paths in it are relative to the card's folder, ``$NAME`` is taken from the
    environment.

    Raises:
        BackboneError: every problem of the file at once.
    """
    path = Path(path)
    try:
        content = read_mapping(path)
    except UnreadableFile as error:
        raise BackboneError(error.told(f"backbone card {path}", "name an existing YAML file")) from None
    _, found = build(BackboneCard, content)
    problems = [problem.line for problem in found]
    told = {problem.key for problem in found}
    problems += [f"{key}: {text}" for key, text in _between_keys(content) if key not in told]
    if not problems:
        problems = _place_files(content, path.parent)
    if problems:
        raise BackboneError([f"backbone card {path}: {problem}" for problem in problems])
    card, _ = build(BackboneCard, content)
    return card  # type: ignore[no-any-return]


def _between_keys(content: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What no key can tell alone: (key, problem)."""
    problems = []
    random = content.get("random")
    if bool(content.get("path")) == bool(random):
        problems.append(("path, random", "set exactly one of the two"))
    if random and not content.get("tokenizer"):
        problems.append(("tokenizer", "missing; random weights have no tokenizer of their own, so name one"))
    if isinstance(random, dict) and random and "model_type" not in random:
        problems.append(("random.model_type", "missing; for example llama or gpt_oss"))
    return problems


def _place_files(content: dict[str, Any], folder: Path) -> list[str]:
    """Make ``path`` and ``tokenizer`` absolute, in place. Returns what is not there."""
    problems = []
    for key in ("path", "tokenizer"):
        if not content.get(key):
            continue
        expanded = os.path.expandvars(content[key])
        if "$" in expanded:
            problems.append(f"{key}: {expanded}: the environment variable in it is not set; export it")
            continue
        content[key] = str((folder / Path(expanded).expanduser()).resolve())
        if not Path(content[key]).exists():
            problems.append(f"{key}: {content[key]} does not exist")
    if not content.get("tokenizer"):
        content["tokenizer"] = content.get("path", "")
    return problems
