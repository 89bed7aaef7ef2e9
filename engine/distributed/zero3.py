"""The backbone under DeepSpeed: configuration derived in one place, partitioned, offloaded, released after each
backward.
"""

import gc
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from backbones import BackboneCalls, BackboneCard, FrozenRoot, GatherCounter, build_backbone
from backbones.layers import LinearUpdates, fuse
from backbones.loading import recompute_first
from backbones.tracing import ModelFootprint, measure_footprint
from engine.core import UserError
from engine.distributed import watchdog
from engine.distributed.hardware import peak_here

ALLOWED = (
    "train_micro_batch_size_per_gpu",
    "bf16",
    "zero_optimization",
    "comms_logger",
    "zero_allow_untested_optimizer",
    "wall_clock_breakdown",
)
REFUSED = ("zero_quantized_nontrainable_weights", "zero_quantized_weights")


class ShardedBackbone(BackboneCalls):
    """A frozen backbone, ready to be called; plain and whole where no DeepSpeed file is named.

    Call ``forward`` any number of times a step and ``release`` after each backward.

    Args:
        recompute: of the first so many decoder layers keep the inputs alone and compute the rest again in the backward
            pass.
        offload_inputs: keep those inputs in host memory.
        ranks_per_node: between so many ranks secondary shards are kept, where the file asks for them.
        say: takes progress lines. sizes: the card's, where they are known already.
        fused: on a GPU, operators of a layer joined (``backbones.layers.fused``).
    """

    def __init__(
        self,
        card: BackboneCard,
        deepspeed_file: str,
        device: torch.device,
        recompute: int = 0,
        dtype: torch.dtype | None = None,
        ranks_per_node: int = 1,
        offload_inputs: bool = False,
        print_rank0: Callable[[str], None] = lambda _: None,
        sizes: ModelFootprint | None = None,
        fused: bool = True,
    ):
        self.device = device
        self.sizes = sizes
        self.peak = peak_here(card.dtype) if device.type == "cuda" else None
        self.zero: dict[str, Any] | None = None
        if deepspeed_file:
            self.zero = zero_config(
                deepspeed_file, card, sizes=sizes or measure_footprint(card), ranks_per_node=ranks_per_node
            )
        self.model = build_backbone(card, zero_config=self.zero, dtype=dtype, device=device, print_rank0=print_rank0)
        if fused and device.type == "cuda":
            fuse(self.model)
        if recompute:
            recompute_first(self.model, recompute)
        self._recomputes, self._all_to_release = bool(recompute), False
        self.root: nn.Module = FrozenRoot(self.model, offload_inputs)
        self.updates: LinearUpdates = self.root.updates  # type: ignore[assignment]
        self._engine: Any = None
        if self.zero is not None:
            import deepspeed

            # no optimizer: DeepSpeed shards and offloads the frozen backbone only; the bank lives outside, replicated
            # in fp32
            self._engine, *_ = deepspeed.initialize(model=self.root, config=self.zero)
            self.root = self._engine.module  # the module, not the engine, whose backward demands an optimizer
        self.gathers = GatherCounter(self.model, ranks_per_node, device.type == "cuda")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        watchdog.note_progress(f"the backbone's forward pass ({args[0]}), which gathers its layers")
        return self.root(*args, **kwargs)

    def updated(self, update: Any) -> Any:
        """A context in which linear layers give out what ``update(name, x, out)`` makes of it; None: what they are."""
        self._all_to_release |= self._recomputes and update is not None
        return self.updates.during(update)

    def destroy(self) -> None:
        """Give its memory back; it must not be called again."""
        if self._engine is not None:
            self._engine.destroy()
            self._engine = None
        del self.model, self.root, self.updates, self.gathers
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def release(self) -> None:
        """After a backward, or a forward without one: else a few parameters stay gathered and the next release
        raises.
        """
        watchdog.note_progress("after a backward pass")
        if self._engine is not None:
            self._engine.optimizer.release_backward_leftovers()
            if self._all_to_release:
                # a layer that is computed again is left in its last linear, as soon as that has what LoRA saves: nobody
                # sees it off; and DeepSpeed decides what to keep by the order of modules it saw last, which among
                # LoRA's and prompts' micro-batches is not the same
                self._engine.optimizer.partition_all_parameters()

    def embed(self, ids: torch.Tensor) -> torch.Tensor:
        """Input embedding rows, (n, D), on the CPU. A collective: every rank calls it alike."""
        with torch.no_grad():
            rows = self.embed_tokens(ids.to(self.device)).cpu()
        self.release()
        return rows


def zero_config(file: str, card: BackboneCard, sizes: ModelFootprint, ranks_per_node: int = 1) -> dict[str, Any]:
    """The DeepSpeed configuration of a file, with precision, ZeRO-3 buckets and secondary shards set from the backbone
    and the machine.

    Keys that the file names under ``zero_optimization`` are kept; ``zero_hpz_partition_size: "auto"`` is
    ``ranks_per_node``.

    Raises:
        UserError: keys that do not belong there, that DeepSpeed would ignore in silence, or that corrupt frozen
            weights.
    """
    content, zero = read_deepspeed(file)
    content.pop("bf16", None)
    if card.dtype == "bfloat16":
        content["bf16"] = {"enabled": True}
    if zero.get("zero_hpz_partition_size") == "auto":
        zero["zero_hpz_partition_size"] = ranks_per_node
    # DeepSpeed's `auto` is far off for us: its buckets look ahead by one matrix, and it reduces gradients that do not
    # exist here
    zero.setdefault("stage3_prefetch_bucket_size", sizes.layer_elements)
    zero.setdefault("stage3_max_live_parameters", 3 * sizes.layer_elements + sizes.vocabulary_elements)
    zero.setdefault("reduce_bucket_size", 1_000_000)
    zero.setdefault("stage3_param_persistence_threshold", 0)
    content["train_micro_batch_size_per_gpu"] = 1
    return {**content, "zero_optimization": zero}


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
