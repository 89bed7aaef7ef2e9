"""What is wrong with the values of a configuration: each section's own checks, and what lies between sections."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import strict_yaml
from engine.config.schema import RunConfig, schema_keys, value_at

SECTIONS = ("data", "prompt", "teach", "distill", "adapt", "lr_sweep", "evaluate")


def problems(config: RunConfig) -> list[str]:
    """Everything that is wrong with a configuration that code has made: types, bounds, and what lies between keys."""
    _, found = strict_yaml.build(RunConfig, dataclasses.asdict(config))
    return [f"{problem.key}: {problem.text}" for problem in found] + impossible(config)


def impossible(c: RunConfig) -> list[str]:
    """Values that have the right type and lie in their bounds, and cannot work together. ``key: problem`` each."""
    out = [*_whole_run(c), *_repeated_items(c)]
    for section in SECTIONS:
        out += getattr(c, section).problems()
    return [*out, *_data_and_distill(c), *_distill_and_run(c), *_lr_sweep_and_methods(c)]


def _whole_run(c: RunConfig) -> Iterator[str]:
    if not c.run_dir:
        yield "run_dir: missing; name the folder that this run writes to"
    if not c.backbone:
        yield "backbone: missing; name a backbone card"
    if c.deepspeed and not Path(c.deepspeed).is_file():
        yield f"deepspeed: {c.deepspeed} does not exist; name a DeepSpeed file, or set sharding instead"
    if c.deepspeed and c.sharding != "auto":
        yield f"deepspeed: {c.deepspeed} already sets the sharding; remove deepspeed or sharding"


def _repeated_items(c: RunConfig) -> Iterator[str]:
    for key, leaf in schema_keys().items():
        if leaf.metadata["distinct"]:
            values = value_at(c, key)
            twice = sorted({str(value) for value in values if values.count(value) > 1})
            if twice:
                yield f"{key}: duplicate {', '.join(twice)}"


def _data_and_distill(c: RunConfig) -> Iterator[str]:
    if c.data.decontaminate_against and not c.distill.sources:
        yield (
            "data.decontaminate_against: only a distillation (distill.sources) reads it; an adaptation takes over what "
            "its source_run found"
        )
    both = sorted(set(c.data.decontaminate_against) & set(c.distill.sources))
    if both:
        yield f"data.decontaminate_against: {', '.join(both)} must not be in distill.sources too"


def _distill_and_run(c: RunConfig) -> Iterator[str]:
    if c.distill.limits_teacher_cache and c.batching == "padded":
        yield "distill.teacher_cache: only batching: packed reads it; remove the limit"


def _lr_sweep_and_methods(c: RunConfig) -> Iterator[str]:
    sweep = c.lr_sweep
    if sweep.relative_lr_teach and (c.teach.run or c.teach.adapters):
        yield (
            "lr_sweep.relative_lr_teach: the teachers are given (teach.run or teach.adapters); nothing is left to tune"
        )
    if sweep.relative_lr_shared and c.adapt.train != "all":
        yield "lr_sweep.relative_lr_shared: needs adapt.train: all, which also trains P*; remove it or set that"
    if sweep.seed in c.adapt.seeds:
        yield f"lr_sweep.seed: {sweep.seed} must not be in adapt.seeds; rates are chosen on a seed that is not reported"
