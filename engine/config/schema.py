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
    """All settings of a run."""

    run_dir: str = conduct("", "Folder for all files that a run writes.")
    backbone: str = keys.key("", "Path of a backbone card.", modes=keys.READERS, in_step=False)
    sharding: Literal["auto", "replicated", "zero3_hpz", "zero3", "zero3_offload"] = machine(
        "auto",
        "Where the frozen backbone is kept. replicated: whole on each device. zero3: in shards over all devices. "
        "zero3_hpz: with a second set of shards in each node. zero3_offload: in shards in host memory. auto: the first "
        "that fits of replicated, zero3_hpz, zero3, zero3_offload.",
    )
    deepspeed: str = machine(
        "",
        "Your own DeepSpeed JSON file (ZeRO and precision only), used instead of the file of a sharding in "
        "ds_configs/.",
    )
    seed: int = keys.key(
        0,
        "Seed of the initial values, the data order and the subsets.",
        above=-(2**63),
        below=2**63,
        wrong="must fit into 63 bits",
    )
    max_tokens_per_micro_batch: int = machine(
        4096,
        "Largest number of tokens in a micro-batch, prompts and padding included. It changes memory, never the result.",
        above=0,
    )
    batching: Literal["packed", "padded"] = machine(
        "packed",
        "packed: each prompt once per micro-batch, no padding, output head and losses on answer tokens only. padded: "
        "one padded row per sample, logits of all positions; the same result but slower, for checks and for model "
        "families that packed batching does not support.",
    )
    activation_checkpointing: Literal["auto", "none", "all", "all_offloaded"] = machine(
        "auto",
        "Which layers are recomputed in the backward pass. all_offloaded also keeps the inputs of the layers in host "
        "memory, for samples of tens of thousands of tokens. auto recomputes as few layers as memory allows.",
    )
    fused: Literal["auto", "off"] = machine(
        "auto",
        "auto: on a GPU, use one fused kernel each for norms, SwiGLU and rotary positions, and three for the steps "
        "between the matrix products of the gpt-oss experts. off: use the operators of transformers.",
    )
    deterministic: bool = machine(
        False,
        "On a GPU, give bit-identical results in every run on the same GPU model with the same versions, ranks and "
        "sharding. An operator that cannot do so ends the run. CPUs are always deterministic. "
        "docs/explanation/fast_path.md gives the cost.",
    )
    # dummy weights are another backbone, which its own hash tells
    dummy_weights: bool = keys.key(
        False,
        "Do not read the backbone's weights; draw them in their full shapes from the seed of its card, to measure "
        "speed without the files.",
        on_resume="free",
    )
    preempt_signal: str = conduct(
        "USR1",
        "Signal, besides SIGTERM, that makes the run save at the next step and exit with code 75. A file STOP in "
        "run_dir does the same; with a file SAVE the run saves and continues.",
    )
    max_nonfinite_steps: int = conduct(
        50,
        "End the run when the gradient of a prompt or LoRA adapter was not finite in this many consecutive steps; 0: "
        "never. Each such step leaves it unchanged.",
        at_least=0,
    )
    hang_minutes: float = conduct(
        30.0, "End the job when a rank makes no progress for this many minutes, and report where it was.", above=0
    )
    overwrite: bool = conduct(
        False,
        "distill, adapt: delete the checkpoints, curves, predictions and results in run_dir and start again. "
        "evaluate, predict: generate all answers again; predict also overwrites the output.",
        modes=keys.READERS,
    )
    accept_changes: bool = conduct(
        False,
        "Continue from a checkpoint of a different configuration, data or backbone (same tasks, same shapes). The "
        "changes are logged, and recorded in checkpoints and results.",
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
