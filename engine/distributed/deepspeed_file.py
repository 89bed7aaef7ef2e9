"""A DeepSpeed file of a user's own, read and checked without torch: wrong files end a command before it is imported."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from engine.core import UserError

ALLOWED = (
    "train_micro_batch_size_per_gpu",
    "bf16",
    "zero_optimization",
    "comms_logger",
    "zero_allow_untested_optimizer",
    "wall_clock_breakdown",
)
REFUSED = ("zero_quantized_nontrainable_weights", "zero_quantized_weights")
OBJECTS = ("bf16", "comms_logger", "zero_optimization.offload_param", "zero_optimization.offload_optimizer")
SWITCHES = ("zero_allow_untested_optimizer", "wall_clock_breakdown")
# numbers that plan reads too; `auto` for the ranks of a node
NUMBERS = {
    "stage3_prefetch_bucket_size": 0,
    "stage3_max_live_parameters": 0,
    "stage3_max_reuse_distance": 0,
    "stage3_param_persistence_threshold": 0,
    "reduce_bucket_size": 1,
    "zero_hpz_partition_size": 1,
}
DEVICES = ("none", "cpu")  # of offload_param


def read_deepspeed(file: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """A DeepSpeed file and its ``zero_optimization``, checked.

    Raises:
        UserError: as zero_config's.
    """
    try:
        content = json.loads(Path(file).read_text())
    except json.JSONDecodeError as error:
        raise UserError(f"{file}, line {error.lineno}: not valid JSON ({error.msg})") from None
    except UnicodeDecodeError:
        raise UserError(f"{file}: is not a text file") from None
    except OSError as error:
        raise UserError(f"{file}: {error.strerror}") from None
    zero = content.get("zero_optimization", {}) if isinstance(content, dict) else None
    if not isinstance(zero, dict):
        raise UserError(f"{file}: must be a JSON object that holds an object zero_optimization")
    problems = [*_keys(content, zero), *_types(content, zero)]
    if problems:
        raise UserError([f"{file}: {problem}" for problem in problems])
    return content, zero


def _keys(content: dict[str, Any], zero: dict[str, Any]) -> Iterator[str]:
    """Keys that are not used here or not supported."""
    for key in content:
        if key not in ALLOWED:
            yield f"{key}: not used here; DeepSpeed files hold {', '.join(ALLOWED)} only"
    for key in REFUSED:
        if zero.get(key):
            yield f"zero_optimization.{key}: corrupts frozen weights or undoes offload; remove it"
    if zero.get("stage") != 3:
        yield "zero_optimization.stage: must be 3 (or `sharding: replicated` for the whole backbone on every rank)"


def _types(content: dict[str, Any], zero: dict[str, Any]) -> Iterator[str]:
    """Values that DeepSpeed, or a prediction of its memory, could not read."""
    flat = content | {f"zero_optimization.{key}": value for key, value in zero.items()}
    for key in OBJECTS:
        value = flat.get(key)
        if value is not None and not isinstance(value, dict):
            example = '{"device": "cpu"}' if "offload" in key else '{"enabled": true}'
            yield f"{key}: must be an object, such as {example}; got {_shown(value)}"
    for key in SWITCHES:
        if not isinstance(flat.get(key, False), bool):
            yield f"{key}: must be true or false; got {_shown(flat[key])}"
    for key, least in NUMBERS.items():
        value = zero.get(key, least)
        if key == "zero_hpz_partition_size" and value == "auto":
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or not _is_whole(value, least):
            yield f"zero_optimization.{key}: must be a whole number >= {least}; got {_shown(value)}"
    offload = zero.get("offload_param")
    device = offload.get("device", "none") if isinstance(offload, dict) else "none"
    if device == "nvme":
        yield "zero_optimization.offload_param.device: must be cpu; nvme is not supported"
    elif device not in DEVICES:
        yield f"zero_optimization.offload_param.device: must be one of {', '.join(DEVICES)}; got {_shown(device)}"


def _is_whole(value: float, least: int) -> bool:
    """Whether it is a whole number from ``least`` on; 5e8 is one."""
    return least <= value < float("inf") and value == int(value)


def _shown(value: Any) -> str:
    """As the file has it, shortened."""
    text = json.dumps(value)
    return text if len(text) < 60 else f"{text[:57]}..."
