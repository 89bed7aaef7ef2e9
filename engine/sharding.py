"""The backbone under DeepSpeed: configuration derived in one place, partitioned, offloaded, released after each backward."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig

from backbones import BackboneCard, FrozenRoot, GatherCounter, build_backbone
from backbones.frozen import backbone_config
from engine.errors import UserError

ALLOWED = ("train_micro_batch_size_per_gpu", "bf16", "zero_optimization", "comms_logger", "zero_allow_untested_optimizer", "wall_clock_breakdown")
REFUSED = ("zero_quantized_nontrainable_weights", "zero_quantized_weights")


class ShardedBackbone:
    """A frozen backbone, ready to be called; plain where no DeepSpeed file is named.

    Call ``forward`` any number of times a step and ``release`` after each backward.
    """

    def __init__(
        self, card: BackboneCard, deepspeed_file: str, device: torch.device, recompute: bool = False, dtype: torch.dtype | None = None,
        say: Callable[[str], None] = lambda _: None,
    ):  # fmt: skip
        self.device = device
        zero = None if deepspeed_file == "none" else zero_config(deepspeed_file, card, backbone_config(card))
        self.model = build_backbone(card, zero, dtype, device, say)
        if recompute:
            self.model.gradient_checkpointing_enable({"use_reentrant": False})
            self.model.train()  # transformers recomputes in training mode only; frozen families here have no dropout
            if getattr(self.model.config, "attention_dropout", 0):
                raise UserError(f"backbone {card.name}: attention_dropout > 0 cannot be trained through with recompute: true")
        self.root: nn.Module = FrozenRoot(self.model)
        self._engine: Any = None
        if zero is not None:
            import deepspeed

            # no optimizer: DeepSpeed shards and offloads the frozen backbone only; the bank lives outside, replicated in fp32
            self._engine, *_ = deepspeed.initialize(model=self.root, config=zero)
            self.root = self._engine.module  # the module, not the engine, whose backward demands an optimizer
        self.gathers = GatherCounter(self.model)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.root(*args, **kwargs)

    def release(self) -> None:
        """After a backward, or a forward without one: else a few parameters stay gathered and the next release raises."""
        if self._engine is not None:
            self._engine.optimizer.release_backward_leftovers()

    def embed(self, ids: torch.Tensor) -> torch.Tensor:
        """Input embedding rows, (n, D), on the CPU. A collective: every rank calls it alike."""
        with torch.no_grad():
            rows = self("embed", ids.to(self.device)).cpu()
        self.release()
        return rows


def zero_config(file: str, card: BackboneCard, config: PreTrainedConfig) -> dict[str, Any]:
    """The DeepSpeed configuration of a file, with precision and ZeRO-3 buckets set from the backbone's layer size.

    Keys that the file names under ``zero_optimization`` are kept.

    Raises:
        UserError: keys that do not belong there, that DeepSpeed would ignore in silence, or that corrupt frozen weights.
    """
    try:
        content = json.loads(Path(file).read_text())
    except json.JSONDecodeError as error:
        raise UserError(f"{file}, line {error.lineno}: not valid JSON ({error.msg})") from None
    except UnicodeDecodeError:
        raise UserError(f"{file}: not a text file") from None
    zero = content.get("zero_optimization", {}) if isinstance(content, dict) else None
    if not isinstance(zero, dict):
        raise UserError(f"{file}: expected an object with an object zero_optimization in it")
    problems = [f"{file}: {k}: not used here; DeepSpeed files hold {', '.join(ALLOWED)} only" for k in content if k not in ALLOWED]
    problems += [f"{file}: zero_optimization.{k}: corrupts frozen weights or undoes offload; remove it" for k in REFUSED if zero.get(k)]
    if zero.get("stage") != 3:
        problems.append(f"{file}: zero_optimization.stage: must be 3 (or `deepspeed: none` for the whole backbone on every rank)")
    if problems:
        raise UserError(problems)
    content.pop("bf16", None)
    if card.dtype == "bfloat16":
        content["bf16"] = {"enabled": True}
    layer = _layer_numbers(config)
    # DeepSpeed's `auto` is far off for us: its buckets look ahead by one matrix, and it reduces gradients that do not exist here
    zero.setdefault("stage3_prefetch_bucket_size", layer)
    zero.setdefault("stage3_max_live_parameters", 3 * layer + 2 * config.vocab_size * config.hidden_size)
    zero.setdefault("reduce_bucket_size", 1_000_000)
    zero.setdefault("stage3_param_persistence_threshold", 0)
    content["train_micro_batch_size_per_gpu"] = 1
    return {**content, "zero_optimization": zero}


def _layer_numbers(config: PreTrainedConfig) -> int:
    """About how many numbers one decoder layer holds."""
    hidden, inner = config.hidden_size, getattr(config, "intermediate_size", 4 * config.hidden_size)
    experts = getattr(config, "num_local_experts", 1) or 1
    return 4 * hidden * hidden + 3 * hidden * inner * experts
