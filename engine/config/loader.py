"""One strict resolver: YAML file + ``--a.b=value`` flags -> RunConfig, or every problem at once."""

import dataclasses
import difflib
import os
import types
import typing
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

from engine.config.learning_rates import REPLACED, refusal, replaced_in, rms_of_card
from engine.config.renamed import new_key, new_value
from engine.config.schema import UNTRAINED, RunConfig
from engine.config.server_address import server_address_problems
from engine.core import UserError

SWEPT = (
    "metaprompt",
    "multitask_prompt",
    "relative_lr_shared",
    "relative_lr_prompt",
    "relative_lr_teach",
    "lora",
)  # rates in LrSweepConfig


class _UniqueKeyLoader(yaml.SafeLoader):
    """YAML lets a later key replace an earlier one in silence; a run config must not."""


def _mapping(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict:
    seen: dict[Any, int] = {}
    for key_node, _ in node.value:
        if not isinstance(key_node, yaml.ScalarNode):  # such as `run_dir: {{ name }}`, a placeholder left in
            raise UserError(f"line {key_node.start_mark.line + 1}: a key must be a word")
        if key_node.value in seen:
            raise UserError(
                f"line {key_node.start_mark.line + 1}: key {key_node.value!r} stands twice (first in line "
                f"{seen[key_node.value]})"
            )
        seen[key_node.value] = key_node.start_mark.line + 1
    return yaml.SafeLoader.construct_mapping(loader, node, deep=True)


_UniqueKeyLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def resolve(config_file: str | Path, overrides: dict[str, str] | None = None) -> RunConfig:
    """The run configuration of a file, with flags on top.

    Args:
        overrides: dotted key -> text as typed; read as YAML and coerced by the field's type.

    Raises:
        UserError: every unknown key (with a suggestion), wrong type and impossible value, each with file and key.
    """
    content = read_yaml(config_file)
    problems: list[str] = []
    for dotted, text in (overrides or {}).items():
        if dotted not in REPLACED:
            _override(content, dotted, text, problems)
    problems += _absolute_rates(content, overrides or {}, str(config_file))
    config = _build(RunConfig, content, "", str(config_file), problems)
    # a key already told about holds its default here: once is enough
    problems += [
        f"{config_file}: {p}"
        for p in _impossible(config)
        if not any(f"{p.partition(':')[0]}:" in told for told in problems)
    ]
    if problems:
        raise UserError(problems)
    return config


def _absolute_rates(content: dict[str, Any], overrides: dict[str, str], where: str) -> list[str]:
    """A problem for each key of an absolute learning rate, which is taken out of ``content``, with what to write in
    its place.
    """
    found = {f"{where}: ": replaced_in(content), "command line: --": {}}
    for old, text in overrides.items():
        if old in REPLACED:
            found["command line: --"][old] = (
                [part.strip() for part in text.strip("[]").split(",")] if "," in text else text
            )
    if not any(found.values()):
        return []
    backbone = str(content.get("backbone", ""))
    rms = rms_of_card(backbone) if backbone else None
    for old in found[f"{where}: "]:
        section, _, leaf = old.partition(".")
        content[section] = {key: value for key, value in content[section].items() if key != leaf}
        if not content[section]:
            del content[section]
    return [place + refusal(old, value, rms, backbone) for place, keys in found.items() for old, value in keys.items()]


def read_yaml(path: str | Path) -> dict[str, Any]:
    """A YAML mapping; keys may stand once only."""
    try:
        content = yaml.load(Path(path).read_text(), _UniqueKeyLoader)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; --config names a YAML file") from None
    except UserError as error:
        raise UserError(f"{path}, {error.problems[0]}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: no text file; --config names a YAML file") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise UserError(f"{path}{where}: not valid YAML ({getattr(error, 'problem', None) or 'malformed'})") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected keys and values")
    return content


def known_keys(cls: type = RunConfig, prefix: str = "") -> dict[str, tuple[Any, Any]]:
    """Dotted key -> (type, default) of every leaf."""
    out: dict[str, tuple[Any, Any]] = {}
    hints = get_type_hints(cls)
    for f in dataclasses.fields(cls):
        if dataclasses.is_dataclass(hints[f.name]):
            out |= known_keys(typing.cast(type, hints[f.name]), f"{prefix}{f.name}.")
        else:
            out[prefix + f.name] = (hints[f.name], f.default_factory() if callable(f.default_factory) else f.default)  # type: ignore[misc]
    return out


def unknown_key(key: str, known: typing.Iterable[str]) -> str:
    """The sentence that every unknown key gets."""
    if renamed := new_key(key):
        return f"unknown key {key!r}; it is called {renamed!r} now"
    known = list(known)
    near = difflib.get_close_matches(key, known, 1, 0.55)
    if not near:  # a leaf without its section
        near = [k for k in known if k.rpartition(".")[2] == key.rpartition(".")[2]][:1]
    return f"unknown key {key!r}" + (f"; did you mean {near[0]!r}?" if near else "; see --help")


def _override(content: dict[str, Any], dotted: str, text: str, problems: list[str]) -> None:
    known = known_keys()
    if dotted not in known:
        problems.append(f"command line: --{dotted}: " + unknown_key(dotted, known))
        return
    kind = known[dotted][0]
    try:
        value = _typed(kind, text)
    except yaml.YAMLError:
        problems.append(f"command line: --{dotted}: cannot be read as {_name(kind)}")
        return
    section, _, leaf = dotted.rpartition(".")
    node = content
    if section:
        if not isinstance(content.get(section) or {}, dict):
            return  # the wrong section is reported by _build
        node = content[section] = dict(content.get(section) or {})
    try:
        node[leaf] = _coerce(kind, value)
    except ValueError as error:
        problems.append(f"command line: --{dotted}: {error}")


def _typed(kind: Any, text: str) -> Any:
    """What a flag's text means for a field: text stays as typed (2024_01 is a name, not a number); a list is
    ``a,b`` or YAML.
    """
    if get_origin(kind) is list and not text.lstrip().startswith("["):
        return [_typed(get_args(kind)[0], part.strip()) for part in text.split(",") if part.strip()]
    return text if kind is str or get_origin(kind) is Literal else yaml.safe_load(text)


def _build(cls: type, content: Any, prefix: str, where: str, problems: list[str]) -> Any:
    if not isinstance(content, dict):
        problems.append(f"{where}: {prefix.rstrip('.')}: expected keys and values")
        return cls()
    hints = get_type_hints(cls)
    values = {}
    for key, value in content.items():
        name = prefix + str(key)
        if key not in hints:
            problems.append(f"{where}: " + unknown_key(name, [prefix + h for h in hints] + list(known_keys())))
        elif dataclasses.is_dataclass(hints[key]):
            values[key] = _build(
                typing.cast(type, hints[key]), {} if value is None else value, name + ".", where, problems
            )
        else:
            try:
                values[key] = _coerce(hints[key], value)
            except ValueError as error:
                problems.append(f"{where}: {name}: {error}")
    return cls(**values)


def _coerce(kind: Any, value: Any) -> Any:
    """``value`` as the field's type, or ValueError that says what was expected. Only lossless steps: int -> float,
    int -> shot label.
    """
    origin = get_origin(kind)
    if origin is Literal:
        if value not in get_args(kind):
            if renamed := new_value(value, get_args(kind)):
                raise ValueError(f"{value!r} is called {renamed!r} now")
            near = difflib.get_close_matches(str(value), [str(a) for a in get_args(kind)], 1)
            raise ValueError(
                f"{value!r} is none of {', '.join(map(str, get_args(kind)))}"
                + (f"; did you mean {near[0]!r}?" if near else "")
            )
        return value
    if origin is list:
        if not isinstance(value, list):
            raise ValueError(f"expected a list, found {_shown(value)}")
        return [_coerce(get_args(kind)[0], v) for v in value]
    if origin in (Union, types.UnionType):
        raise AssertionError("no union types in RunConfig")
    if kind is float:
        if isinstance(value, str):  # YAML 1.1 reads 1e-3 as text
            try:
                return float(value)
            except ValueError:
                pass
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
    elif kind is bool:
        if isinstance(value, bool):
            return value
    elif kind is int:
        if isinstance(value, int) and not isinstance(value, bool):
            return value
    elif kind is str:
        if isinstance(value, str):
            return value
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        if value is False:
            return "off"  # YAML 1.1 reads a bare off as false
    raise ValueError(f"expected {_name(kind)}, found {_shown(value)}")


def _shown(value: Any) -> str:
    return (
        f"{value!r}" if isinstance(value, int | float | str | bool) and len(str(value)) < 60 else type(value).__name__
    )


def _name(kind: Any) -> str:
    return {int: "a whole number", float: "a number", bool: "true or false", str: "text"}.get(kind, "a list")


def _impossible(c: RunConfig) -> list[str]:
    """Values that have the right type and cannot work."""
    problems = []
    if not c.run_dir:
        problems.append("run_dir: missing; name the folder that this run writes to")
    if not c.backbone:
        problems.append("backbone: missing; name a backbone card")
    positive = [
        "max_tokens_per_micro_batch",
        "data.max_length",
        "prompt.num_virtual_tokens",
        "prompt.rank",
        "teach.steps",
        "teach.batch_size",
        "distill.steps",
        "distill.batch_size",
        "distill.cap",
        "distill.temperature",
        "adapt.batch_size",
        "adapt.steps",
        "adapt.lora_rank",
        "evaluate.max_new_tokens",
        "evaluate.max_context",
        "evaluate.batch_size",
        "log.interval",
        "checkpoint.interval",
        "checkpoint.keep",
        "hang_minutes",
    ]
    other = [
        "teach.relative_lr",
        "teach.max_grad_norm",
        "teach.warmup_steps",
        "teach.eval_interval",
        "teach.patience",
        "distill.relative_lr_shared",
        "distill.lr_task",
        "distill.max_grad_norm",
        "distill.warmup_steps",
        "distill.lambda_kl",
        "distill.lambda_hidden",
        "adapt.relative_lr_shared",
        "adapt.lr_task",
        "adapt.relative_lr_prompt",
        "adapt.max_grad_norm",
        "adapt.lr_lora",
        "adapt.warmup_steps",
        "adapt.eval_interval",
        "adapt.patience",
        "data.max_train",
        "data.max_validation",
        "data.max_test",
        "max_nonfinite_steps",
    ]
    for key in positive + other:
        value = value_at(c, key)
        if not (value > 0 if key in positive else value >= 0) or value == float("inf"):
            problems.append(f"{key}: {value} is not {'above' if key in positive else 'at least'} 0")
    if abs(c.seed) >= 2**63:
        problems.append("seed: has more than 63 bits")
    if c.prompt.rank > c.prompt.num_virtual_tokens:
        problems.append(
            f"prompt.rank: {c.prompt.rank} is above prompt.num_virtual_tokens ({c.prompt.num_virtual_tokens})"
        )
    if c.prompt.init == "text" and not c.prompt.init_text.strip():
        problems.append("prompt.init_text: missing; prompt.init is text")
    if c.data.drop_contaminated and not c.data.decontaminate_against:
        problems.append(
            (
                "data.drop_contaminated: needs data.decontaminate_against, the tasks whose test documents no source "
                "may train on"
            )
        )
    if c.data.decontaminate_against and not c.distill.sources:
        problems.append(
            "data.decontaminate_against: is of a distillation (distill.sources); an adaptation takes over what its "
            "source_run found"
        )
    problems += [
        f"distill.without: {name!r} is not in distill.sources"
        for name in c.distill.without
        if name not in c.distill.sources
    ]
    if c.distill.sources and not c.distill.tasks:
        problems.append("distill.without: leaves no source task")
    if c.teach.run and c.teach.adapters:
        problems.append("teach.run: and teach.adapters both say where teachers come from; take one away")
    both = sorted(set(c.data.decontaminate_against) & set(c.distill.sources))
    if both:
        problems.append(
            f"data.decontaminate_against: {', '.join(both)} stands in distill.sources too; a source is not unseen"
        )
    for key in (
        "data.decontaminate_against",
        "distill.sources",
        "adapt.targets",
        "adapt.methods",
        "adapt.shots",
        "adapt.seeds",
        "adapt.transfer",
        *(f"lr_sweep.{name}" for name in SWEPT),
        "lr_sweep.shots",
    ):
        values = value_at(c, key)
        twice = sorted({str(v) for v in values if values.count(v) > 1})
        if twice:
            problems.append(f"{key}: {', '.join(twice)} stands twice")
    for key in ("adapt.shots", "lr_sweep.shots"):
        for shot in value_at(c, key):
            if shot != "full" and not (shot.isdecimal() and str(int(shot)) == shot):
                problems.append(f"{key}: {shot!r} is neither full nor a number")
    for name in SWEPT:
        problems += [
            f"lr_sweep.{name}: {rate} is not above 0"
            for rate in getattr(c.lr_sweep, name)
            if not 0 < rate < float("inf")
        ]
    if c.lr_sweep.relative_lr_teach and (c.teach.run or c.teach.adapters):
        problems.append(
            "lr_sweep.relative_lr_teach: the teachers are given (teach.run or teach.adapters); nothing is left to tune"
        )
    if c.lr_sweep.relative_lr_shared and c.adapt.train != "all":
        problems.append(
            (
                "lr_sweep.relative_lr_shared: is of adapt.train: all, which trains P* too; take it away or set "
                "adapt.train: all"
            )
        )
    if "0" in c.lr_sweep.shots:
        problems.append("lr_sweep.shots: 0 trains nothing, so no rate is better than another")
    if c.lr_sweep.seed in c.adapt.seeds:
        problems.append(
            f"lr_sweep.seed: {c.lr_sweep.seed} stands in adapt.seeds; what a rate was chosen on must not be reported"
        )
    if c.adapt.transfer and "metaprompt" not in c.adapt.methods:
        problems.append("adapt.transfer: is of the method metaprompt, which adapt.methods does not name")
    if c.adapt.methods and set(c.adapt.methods) <= set(UNTRAINED):
        problems.append(
            f"adapt.methods: {', '.join(c.adapt.methods)}: nothing to train, so no run to score; name a trained "
            "method beside it, or score the "
            "written instruction with any finished run (python train.py evaluate --run DIR --evaluate.instruction=true)"
        )
    if "in_context" in c.adapt.methods and not set(c.adapt.shots) - {"0", "full"}:
        problems.append("adapt.shots: in_context takes its numbers of examples from here, and there is none above 0")
    if c.adapt.init not in ("auto", "mean_factors", "mean_product", "ones") and not c.adapt.init.startswith("task:"):
        problems.append(f"adapt.init: {c.adapt.init!r} is none of auto, mean_factors, mean_product, ones, task:NAME")
    keep = c.distill.teacher_cache
    if keep not in ("auto", "off") and not (keep.replace(".", "", 1).isdecimal() and float(keep) > 0):
        problems.append(f"distill.teacher_cache: {keep!r} is none of auto, off, a number of GB")
    elif keep not in ("auto", "off") and c.batching == "padded":
        problems.append("distill.teacher_cache: only batching: packed reads it; take the limit away")
    problems += server_address_problems(c.evaluate)
    if c.deepspeed and not Path(c.deepspeed).is_file():
        problems.append(f"deepspeed: {c.deepspeed} does not exist; name a DeepSpeed file, or a sharding in its stead")
    if c.deepspeed and c.sharding != "auto":
        problems.append(f"deepspeed: {c.deepspeed} decides the sharding; take one of deepspeed and sharding away")
    return problems


def value_at(config: Any, dotted: str) -> Any:
    for part in dotted.split("."):
        config = getattr(config, part)
    return config


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
