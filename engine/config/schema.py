"""The run configuration: every key that a YAML file or a ``--a.b=value`` flag may name, here or in a section, with its
default, meaning and bounds.
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

from engine.config import keys
from engine.config.sections import (
    AdaptConfig,
    CheckpointConfig,
    DataConfig,
    DistillConfig,
    EvaluateConfig,
    LogConfig,
    LrSweepConfig,
    PromptConfig,
    TeachConfig,
)
from strict_yaml import Leaf, leaves

__all__ = [
    "FREE_IN_EVALUATION",
    "FREE_ON_RESUME",
    "JOINED_BY_MERGE",
    "NOT_IN_STEP",
    "AdaptConfig",
    "CheckpointConfig",
    "DataConfig",
    "DistillConfig",
    "EvaluateConfig",
    "LogConfig",
    "LrSweepConfig",
    "PromptConfig",
    "RunConfig",
    "TeachConfig",
    "known_keys",
    "schema_keys",
    "value_at",
]

# how the machine is used: free on resume, and evaluate may choose anew
machine = partial(keys.key, modes=keys.READERS, on_resume="free")
# what a run does when it starts, ends or is stopped
conduct = partial(keys.key, on_resume="free", in_step=False)


@dataclass
class RunConfig:
    """Everything that a run is asked for."""

    run_dir: str = conduct("", "Folder that everything a run writes goes to.")
    backbone: str = keys.key("", "Path of a backbone card.", modes=keys.READERS, in_step=False)
    sharding: Literal["auto", "replicated", "zero3_hpz", "zero3", "zero3_offload"] = machine(
        "auto",
        "Where the frozen backbone lives: whole on each device; in ZeRO-3 shards on devices, a second set within each "
        "node, or one set; in shards on hosts. auto takes the fastest that is predicted to fit.",
    )
    deepspeed: str = machine(
        "", "A DeepSpeed JSON of your own (ZeRO and precision only), in place of a sharding's file in ds_configs/."
    )
    seed: int = keys.key(
        0,
        "Seed of starts, data order and subsets.",
        above=-(2**63),
        below=2**63,
        wrong="has more than 63 bits",
    )
    max_tokens_per_micro_batch: int = machine(
        4096, "Tokens of a micro-batch, prompts and padding counted; decides memory, never the result.", above=0
    )
    batching: Literal["packed", "padded"] = machine(
        "packed",
        "packed: each prompt once per micro-batch, no padding, head and losses on answer tokens only. padded: one "
        "padded row per sample, whole logits; the same result, slower, for checks and for families that packed rows "
        "do not know.",
    )
    activation_checkpointing: Literal["auto", "none", "all", "all_offloaded"] = machine(
        "auto",
        "Layers whose activations are computed again in the backward pass; all_offloaded keeps the layers' inputs in "
        "host memory besides, for samples of tens of thousands of tokens; auto: as little as fits.",
    )
    fused: Literal["auto", "off"] = machine(
        "auto",
        "On a GPU, norms, SwiGLU and rotary positions are one kernel each, what lies between products of gpt-oss's "
        "experts three; off: as in transformers.",
    )
    deterministic: bool = machine(
        False,
        "On a GPU, compute the same bits in every run on the same kind of card with the same versions, ranks and "
        "sharding; what it costs: docs/explanation/fast_path.md. An operator that cannot do so ends the run. CPUs do "
        "so anyway.",
    )
    # dummy weights are another backbone, which its own hash tells
    dummy_weights: bool = keys.key(
        False,
        "Draw the backbone's weights from its card's seed, full shapes, in place of reading files: to measure speed "
        "without them.",
        on_resume="free",
    )
    preempt_signal: str = conduct(
        "USR1",
        "Beside SIGTERM: at the next step save, and leave with exit code 75. So do files SAVE (and go on) and STOP in "
        "run_dir.",
    )
    max_nonfinite_steps: int = conduct(
        50,
        "End the run when a row's gradient was not finite in so many steps running (each such step leaves the row as "
        "it was); 0 never.",
        at_least=0,
    )
    hang_minutes: float = conduct(
        30.0, "A rank that makes no progress for so long ends the job and says where it was.", above=0
    )
    overwrite: bool = conduct(False, "Ignore checkpoints in run_dir and start again.", modes=keys.READERS)
    accept_changes: bool = conduct(
        False,
        "Go on from a checkpoint of another configuration, data or backbone (same tasks, same shapes). Said aloud, "
        "and kept in checkpoints and results.",
    )
    data: DataConfig = field(default_factory=DataConfig)
    prompt: PromptConfig = field(default_factory=PromptConfig)
    teach: TeachConfig = field(default_factory=TeachConfig)
    distill: DistillConfig = field(default_factory=DistillConfig)
    adapt: AdaptConfig = field(default_factory=AdaptConfig)
    lr_sweep: LrSweepConfig = field(default_factory=LrSweepConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    log: LogConfig = field(default_factory=LogConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)


@functools.cache
def schema_keys() -> Mapping[str, Leaf]:
    """Dotted key -> its type, default and metadata, in the order of the schema."""
    return leaves(RunConfig)


def known_keys() -> dict[str, tuple[Any, Any]]:
    """Dotted key -> (type, default) of every key."""
    return {name: (leaf.type, leaf.default) for name, leaf in schema_keys().items()}


def value_at(config: Any, dotted: str) -> Any:
    """The value of a dotted key, or a whole section."""
    for part in dotted.split("."):
        config = getattr(config, part)
    return config


def _names(**wanted: Any) -> tuple[str, ...]:
    """Keys whose metadata are as wanted."""
    found = []
    for name, leaf in schema_keys().items():
        if all(leaf.metadata[entry] == value for entry, value in wanted.items()):
            found.append(name)
    return tuple(found)


def _changeable_in_evaluation() -> tuple[str, ...]:
    """What evaluate and predict may change of a finished run, besides their own sections evaluate and log."""
    return tuple(
        name
        for name, leaf in schema_keys().items()
        if "evaluate" in leaf.metadata["modes"] and not name.startswith(("evaluate.", "log."))
    )


FREE_ON_RESUME = _names(on_resume="free")
FREE_IN_EVALUATION = _changeable_in_evaluation()
JOINED_BY_MERGE = _names(on_merge="union")
NOT_IN_STEP = _names(in_step=False)
