"""A DeepSpeed file of a user's own, read and checked without torch: wrong files end a command before it is imported."""

import json
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
    zero = content.get("zero_optimization", {}) if isinstance(content, dict) else None
    if not isinstance(zero, dict):
        raise UserError(f"{file}: must be a JSON object that holds an object zero_optimization")
    problems = []
    for key in content:
        if key not in ALLOWED:
            problems.append(f"{file}: {key}: not used here; DeepSpeed files hold {', '.join(ALLOWED)} only")
    for key in REFUSED:
        if zero.get(key):
            problems.append(f"{file}: zero_optimization.{key}: corrupts frozen weights or undoes offload; remove it")
    if zero.get("stage") != 3:
        problems.append(
            f"{file}: zero_optimization.stage: must be 3 (or `sharding: replicated` for the whole backbone on "
            "every rank)"
        )
    if isinstance(zero.get("offload_param"), dict) and zero["offload_param"].get("device") == "nvme":
        problems.append(f"{file}: zero_optimization.offload_param.device: must be cpu; nvme is not supported")
    if problems:
        raise UserError(problems)
    return content, zero
