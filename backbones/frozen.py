"""Build a frozen backbone, plain or partitioned by ZeRO-3, with every shard filled and every buffer right."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.initialization import no_init_weights
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from backbones.card import BackboneCard, BackboneError
from backbones.sources import DummySource, RandomSource, SafetensorsSource, WeightSource, check_names, folder_fingerprint

# families that scale or cap logits outside the head: the head on answer tokens alone would be wrong for them
LOGIT_TRANSFORMS = ("final_logit_softcapping", "logits_scaling", "logit_scale")


def build_backbone(card: BackboneCard, zero_config: dict[str, Any] | None, dtype: torch.dtype | None = None) -> PreTrainedModel:
    """A causal language model with ``requires_grad`` off everywhere.

    Args:
        zero_config: a DeepSpeed configuration: parameters are partitioned as they are made (call after init_distributed);
            None builds a plain model, whole on this rank.
        dtype: overrides the card's; fp64 only without DeepSpeed (``zero.Init`` would turn it into fp32).

    Raises:
        BackboneError: unknown family, missing / extra / wrongly shaped weights, packed weights, a buffer that cannot be trusted.
    """
    dtype = dtype or getattr(torch, card.dtype)
    config = backbone_config(card)
    family = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]  # imports the modelling code now: its first import inside zero.Init crashes
    source: WeightSource | None = RandomSource(config, card.seed) if card.random and not card.dummy and _reads_weights() else None
    if card.path and not card.dummy:
        source = SafetensorsSource(Path(card.path))
    options: dict[str, Any] = {"dtype": dtype}
    if card.attention:
        options["attn_implementation"] = card.attention
    if dtype == torch.float64:
        options["experts_implementation"] = "eager"  # grouped matrix products know no fp64
    if zero_config is None:
        model = AutoModelForCausalLM.from_config(config, **options)
    else:
        import deepspeed

        if dtype == torch.float64:
            raise BackboneError("dtype float64: zero.Init would turn it into float32; use it without DeepSpeed")
        # never dtype= here: float32 silently becomes bf16. Every weight is filled below, and transformers' own start would write into a
        # partitioned embedding's row of padding, where there is none
        with deepspeed.zero.Init(config_dict_or_path=zero_config), no_init_weights():
            model = AutoModelForCausalLM.from_config(config, **options)
        model.tie_weights()
        _rebuild_rotary(model)
    model.requires_grad_(False).eval()
    _fill(model, source, card, family.__name__)
    wrong = [n for n, p in model.named_parameters() if p.dtype != dtype]
    if wrong:
        raise BackboneError(f"backbone {card.name}: {len(wrong)} parameters are not {dtype}, for example {wrong[0]}")
    return model


def backbone_config(card: BackboneCard) -> PreTrainedConfig:
    """transformers' configuration of the card.

    Raises:
        BackboneError: unknown model_type, or a family or file this project cannot train through yet.
    """
    if card.random:
        keys = dict(card.random)
        kind = keys.pop("model_type")
        try:
            config = AutoConfig.for_model(kind, **keys)
        except Exception as error:  # transformers has its own kinds for a configuration that contradicts itself
            raise BackboneError(f"backbone {card.name}: random: {' '.join(str(error).split())[:200]}") from None
    else:
        try:
            config = AutoConfig.from_pretrained(card.path, local_files_only=True)
        except Exception as error:
            raise BackboneError(f"backbone {card.path}: config.json cannot be read ({' '.join(str(error).split())[:200]})") from None
    if card.attention and card.attention not in ALL_ATTENTION_FUNCTIONS and card.attention != "eager":
        raise BackboneError(f"backbone {card.name}: attention: {card.attention!r} is not known to transformers; for example sdpa or eager")
    if getattr(config, "quantization_config", None):
        raise BackboneError(f"backbone {card.name}: packed (quantised) weights cannot be loaded yet; give a bfloat16 safetensors folder")
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise BackboneError(f"backbone {card.name}: {config.model_type} is no causal language model in this transformers release")
    for key in LOGIT_TRANSFORMS:
        if getattr(config, key, None) not in (None, 1, 1.0):
            raise BackboneError(f"backbone {card.name}: {key} changes logits outside the head, which is not supported")
    return config


def backbone_fingerprint(card: BackboneCard) -> str:
    """Hash of what decides the frozen weights: the card, and for a folder its files."""
    files = folder_fingerprint(Path(card.path)) if card.path and not card.dummy else ""
    return hashlib.sha256((card.fingerprint() + files).encode()).hexdigest()


def _reads_weights() -> bool:
    return not dist.is_initialized() or dist.get_rank() == 0


def _rebuild_rotary(model: PreTrainedModel) -> None:
    """zero.Init computes buffers in bf16 (RoPE inv_freq off by up to 5 %), and weight files hold none: compute them again outside."""
    for name, module in list(model.named_modules()):
        buffers = dict(module.named_buffers(recurse=False))
        if "inv_freq" in buffers:
            parent = model.get_submodule(name.rpartition(".")[0])
            setattr(parent, name.rpartition(".")[2], type(module)(model.config))
        elif buffers:
            raise BackboneError(f"backbone: {name} holds buffers ({', '.join(buffers)}) that DeepSpeed's zero.Init may have rounded to bf16")


def _fill(model: PreTrainedModel, source: WeightSource | None, card: BackboneCard, family: str) -> None:
    """Copy every weight; rank 0 reads, one parameter at a time is whole (coalesced gathers have raced on gloo)."""
    wanted = {n: tuple(getattr(p, "ds_shape", p.shape)) for n, p in model.named_parameters()}
    if card.dummy:
        source = DummySource(wanted, card.seed)
    elif source is not None:
        tied = {n for n, _ in model.named_parameters(remove_duplicate=False)} - wanted.keys()
        check_names(wanted, source.shapes(), tied, f"{card.path or card.name} as {family}")
    for name, parameter in model.named_parameters():
        with gathered(parameter):
            if _reads_weights() or not hasattr(parameter, "ds_id"):
                if source is None:  # a plain model on a rank that read nothing (random weights without DeepSpeed)
                    source = RandomSource(backbone_config(card), card.seed)
                parameter.data.copy_(source.read(name))


def gathered(parameter: nn.Parameter) -> Any:
    """Context in which a partitioned parameter is whole on every rank and rank 0's changes are kept; a no-op on a plain one."""
    import contextlib

    if not hasattr(parameter, "ds_id"):
        return contextlib.nullcontext()
    import deepspeed

    return deepspeed.zero.GatheredParameters([parameter], modifier_rank=0)


def parameter_count(model: nn.Module) -> int:
    """Numbers in the whole backbone, however it is partitioned; tied weights once."""
    return sum(getattr(p, "ds_numel", p.numel()) for p in model.parameters())


def _local_tensors(model: nn.Module) -> Iterator[torch.Tensor]:
    for parameter in model.parameters():
        yield parameter.ds_tensor if hasattr(parameter, "ds_tensor") else parameter


def resident_bytes(model: nn.Module) -> int:
    """Bytes of backbone weights this rank holds now: its shards, and whatever is gathered at the moment."""
    total = sum(t.numel() * t.element_size() for t in _local_tensors(model))
    partitioned: list[Any] = [p for p in model.parameters() if hasattr(p, "ds_tensor")]
    for parameter in partitioned:
        if parameter.ds_status.name == "AVAILABLE":
            total += parameter.numel() * parameter.element_size()
    return total


def backbone_checksum(model: nn.Module) -> str:
    """sha256 over this rank's weights, to the bit: equal before and after training."""
    digest = hashlib.sha256()
    for tensor in _local_tensors(model):
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    digest.update(json.dumps(len(list(model.parameters()))).encode())
    return digest.hexdigest()


class GatherCounter:
    """Counts the all-gathers that ZeRO-3 issues for a backbone, and the bytes this rank receives by them.

    Wraps each partitioned parameter's own gather, the one door through which DeepSpeed's coordinator fetches.
    """

    def __init__(self, model: nn.Module):
        self.calls, self.bytes = 0, 0
        world = dist.get_world_size() if dist.is_initialized() else 1
        for parameter in model.parameters():
            if hasattr(parameter, "all_gather_coalesced"):
                parameter.all_gather_coalesced = self._counted(parameter.all_gather_coalesced, world)

    def _counted(self, gather: Any, world: int) -> Any:
        def counted(params: Any, *args: Any, **kwargs: Any) -> Any:
            params = list(params)
            self.calls += 1
            self.bytes += sum(p.ds_tensor.numel() * p.ds_tensor.element_size() * (world - 1) for p in params)
            return gather(params, *args, **kwargs)

        return counted

    def take(self) -> tuple[int, int]:
        """(calls, bytes) since the last take."""
        out = self.calls, self.bytes
        self.calls = self.bytes = 0
        return out
