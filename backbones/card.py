"""The backbone card: which frozen model, which tokenizer, which template. One YAML file."""

import difflib
import hashlib
import json
import os
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

TEMPLATES = ("none", "chat", "harmony")
DTYPES = ("float32", "bfloat16")


class BackboneError(ValueError):
    """The backbone cannot be used as asked: one line a problem, each with its fix."""

    def __init__(self, problems: list[str] | str):
        self.problems = [problems] if isinstance(problems, str) else problems
        super().__init__("\n".join(self.problems))


@dataclass(frozen=True)
class BackboneCard:
    """Exactly one of ``path`` and ``random`` is given."""

    name: str
    """Short name for tables."""
    path: str = ""
    """Local folder with config.json and safetensors as released. Nothing is ever downloaded."""
    random: dict[str, Any] = field(default_factory=dict)
    """A transformers configuration (``model_type`` and its keys): the weights are drawn from ``seed``; their scores
    mean nothing.
    """
    seed: int = 0
    """Of the random weights."""
    tokenizer: str = ""
    """A folder that transformers can read, or a sentencepiece ``.model`` file; default: ``path``."""
    template: str = "none"
    """How input and answer are laid out: none (BOS input separator answer EOS), chat (the tokenizer's own), harmony
    (gpt-oss).
    """
    separator: str = "\n\n"
    """Between input and answer under the template ``none``."""
    dtype: str = "bfloat16"
    """Of the frozen weights."""
    trust_remote_code: bool = False
    """Run the Python code that the tokenizer's folder brings. A model's own code is never run: its family must be
    one of the installed transformers.
    """
    instruction_first: bool = False
    """Where a written instruction stands when it is scored for comparison: before BOS, as a soft prompt does
    (pocket backbones), or opening the input.
    """
    attention: str = ""
    """transformers' attn_implementation; default: the family's own."""
    dummy: bool = False
    """Of ``path`` read config.json alone and draw the weights from ``seed``: full shapes for benchmarks, scores that
    mean nothing. A GPU draws them itself: other values than a CPU's.
    """
    dequantize: bool = False
    """Widen MXFP4 experts to ``dtype`` as they are read, three times the memory: for comparison. The values are the
    same.
    """

    def fingerprint(self) -> str:
        """sha256 over what decides the weights' values and the token layout, wherever the files lie (their content
        is hashed apart).
        """
        apart = (
            "name",
            "attention",
            "path",
            "tokenizer",
            "trust_remote_code",
            "instruction_first",
            "dummy",
            "dequantize",
        )
        content = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in apart}
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
        content = yaml.safe_load(path.read_text())
    except OSError as error:
        raise BackboneError(f"backbone card {path}: {error.strerror}; name an existing YAML file") from None
    except UnicodeDecodeError:
        raise BackboneError(f"backbone card {path}: not a text file") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise BackboneError(f"backbone card {path}, line {mark.line + 1 if mark else '?'}: not valid YAML") from None
    if not isinstance(content, dict):
        raise BackboneError(f"backbone card {path}: expected a mapping of keys")
    problems = _problems(content)
    if problems:
        raise BackboneError([f"backbone card {path}: {p}" for p in problems])
    for key in ("path", "tokenizer"):
        if content.get(key):
            content[key] = os.path.expandvars(content[key])
            if "$" in content[key]:
                raise BackboneError(
                    f"backbone card {path}: {key}: {content[key]}: the environment variable in it is not set; export it"
                )
            content[key] = str((path.parent / Path(content[key]).expanduser()).resolve())
    content.setdefault("tokenizer", content.get("path", ""))
    missing = [
        f"backbone card {path}: {k}: {content[k]} does not exist"
        for k in ("path", "tokenizer")
        if content.get(k) and not Path(content[k]).exists()
    ]
    if missing:
        raise BackboneError(missing)
    return BackboneCard(**content)


def _problems(content: dict[str, Any]) -> list[str]:
    known = {f.name: f for f in fields(BackboneCard)}
    problems = []
    for key in content:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, 1)
            problems.append(
                f"unknown key {key!r}" + (f"; did you mean {near[0]!r}?" if near else f"; keys: {', '.join(known)}")
            )
    types: dict[str, type] = {
        f: str for f in ("name", "path", "tokenizer", "template", "separator", "dtype", "attention")
    }
    types |= {
        "random": dict,
        "seed": int,
        "trust_remote_code": bool,
        "instruction_first": bool,
        "dummy": bool,
        "dequantize": bool,
    }
    for key, kind in types.items():
        if key in content and not isinstance(content[key], kind):
            problems.append(f"{key}: expected {kind.__name__}, found {type(content[key]).__name__}")
    if not content.get("name"):
        problems.append("name: missing; give the backbone a short name")
    if bool(content.get("path")) == bool(content.get("random")):
        problems.append("path, random: give exactly one of them")
    if content.get("random") and not content.get("tokenizer"):
        problems.append("tokenizer: missing; random weights bring none")
    if isinstance(content.get("random"), dict) and content["random"] and "model_type" not in content["random"]:
        problems.append("random.model_type: missing; for example llama or gpt_oss")
    for key, allowed in (("template", TEMPLATES), ("dtype", DTYPES)):
        if key in content and content[key] not in allowed:
            problems.append(f"{key}: {content[key]!r} is none of {', '.join(allowed)}")
    return problems
