"""Build a frozen backbone, plain or partitioned by ZeRO-3, with every shard filled and every buffer right."""

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.conversion_mapping import get_checkpoint_conversion_mapping
from transformers.initialization import no_init_weights
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from backbones.card import BackboneCard, BackboneError
from backbones.layers import BLOCK, Mxfp4Experts, keep_no_inputs
from backbones.loading.digests import folder_fingerprint
from backbones.loading.embedding_rows import RowsFromFile, looks_up_plainly, read_rows_from
from backbones.loading.exact_buffers import rebuild_buffers
from backbones.loading.from_files import check_names, fill, wanted_of
from backbones.loading.sources import (
    ConvertedSource,
    DummySource,
    RandomSource,
    SafetensorsSource,
    WeightSource,
    WidenedExperts,
)
from backbones.loading.tying import kept_apart, shared_names

# families that scale or cap logits outside the head: the head on answer tokens alone would be wrong for them
LOGIT_TRANSFORMS = ("final_logit_softcapping", "logits_scaling", "logit_scale")


def build_backbone(
    card: BackboneCard,
    zero_config: dict[str, Any] | None,
    dtype: torch.dtype | None = None,
    device: torch.device | None = None,
    print_rank0: Callable[[str], None] = lambda _: None,
) -> PreTrainedModel:
    """A causal language model with ``requires_grad`` off everywhere.

    Args:
        zero_config: a DeepSpeed configuration: parameters are partitioned as they are made (call after
            init_distributed); None builds a plain model, whole on ``device``.
        dtype: overrides the card's; fp64 only without DeepSpeed (``zero.Init`` would turn it into fp32).
        say: takes progress lines.

    Raises:
        BackboneError: unknown family, missing / extra / wrongly shaped weights, a packing of weights or a buffer that
            cannot be trusted.
    """
    dtype = dtype or getattr(torch, card.dtype)
    config = backbone_config(card)
    # imports the modelling code now: its first import inside zero.Init crashes
    MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    options: dict[str, Any] = {"dtype": dtype}
    if card.attention:
        options["attn_implementation"] = card.attention
    if dtype == torch.float64:
        options["experts_implementation"] = "eager"  # grouped matrix products know no fp64
    # every weight is filled below, and transformers' own start would write into a partitioned embedding's row of
    # padding, where there is none
    with no_init_weights(), experts_as_released(config):
        if zero_config is None:
            with torch.device(device or "cpu"):
                model = AutoModelForCausalLM.from_config(config, **options)
        else:
            if dtype == torch.float64:
                raise BackboneError("dtype float64: zero.Init would turn it into float32; use it without DeepSpeed")
            with _partitioned(zero_config):  # never dtype= here: float32 silently becomes bf16
                model = AutoModelForCausalLM.from_config(config, **options)
            rebuild_buffers(model, lambda: AutoModelForCausalLM.from_config(config, **options))
            keep_no_inputs(model, model.get_output_embeddings())
        model.tie_weights()
    model.requires_grad_(False).eval()
    source = _filled(model, card, config, dtype, device, print_rank0)
    table = model.get_input_embeddings()
    if zero_config is not None and isinstance(source, SafetensorsSource | WidenedExperts) and looks_up_plainly(table):
        name = next(n for n, p in model.named_parameters() if p is table.weight)
        read_rows_from(model, source.mapped(name), dtype, device or torch.device("cpu"))
    wrong = [n for n, p in model.named_parameters() if p.dtype not in (dtype, torch.uint8)]
    if wrong:
        raise BackboneError(f"backbone {card.name}: {len(wrong)} parameters are not {dtype}, for example {wrong[0]}")
    return model


def _filled(
    model: PreTrainedModel,
    card: BackboneCard,
    config: PreTrainedConfig,
    dtype: torch.dtype,
    device: torch.device | None,
    print_rank0: Callable[[str], None],
) -> WeightSource:
    """Where the model's weights, which are there now, come from."""
    wanted, tied = wanted_of(model), shared_names(model)
    for head, table in untied_by_file(card):
        print_rank0(
            f"backbone {card.name}: {head} differs from {table}, whatever tie_word_embeddings says; both are kept"
        )
    source = _source(card, config, dtype, device, wanted, tied)
    if isinstance(source, SafetensorsSource) and _is_converted(config, source, wanted):
        way = "renames or merges weights as it loads; transformers does it, whole on every rank"
        print_rank0(f"backbone {card.name}: {config.model_type} {way}")
        source = ConvertedSource(Path(card.path))
        _refuse_untied(card, source, tied)
    where = f"{card.path or card.name} as {type(model).__name__}"
    check_names(wanted, source.tensors(), set(tied), where)
    fill(model, source, print_rank0)
    return source


def _source(
    card: BackboneCard,
    config: PreTrainedConfig,
    dtype: torch.dtype,
    device: torch.device | None,
    wanted: dict[str, Any],
    tied: dict[str, str],
) -> WeightSource:
    """``tied``: further names of shared weights -> their first, as of ``shared_names``."""
    if card.dummy:
        return DummySource(wanted, card.seed, device)
    packed = stays_packed(config)
    if card.random:
        return RandomSource(config, card.seed, packed)
    source = SafetensorsSource(Path(card.path))
    source.rename(tied)
    return WidenedExperts(source, dtype) if card.dequantize and not packed else source


def _is_converted(config: PreTrainedConfig, source: SafetensorsSource, wanted: dict[str, Any]) -> bool:
    """Whether the family's weights have other names or shapes in its files than in the model."""
    return bool(get_checkpoint_conversion_mapping(config.model_type) and wanted.keys() - source.tensors().keys())


def _refuse_untied(card: BackboneCard, source: ConvertedSource, tied: dict[str, str]) -> None:
    """transformers' loader has kept a weight and the one that it should share apart: their values differ."""
    apart = sorted(source.tensors().keys() & tied.keys())
    if apart:
        raise BackboneError(
            [
                f"backbone {card.path}: {name} differs from {tied[name]}, which config.json lets it share; "
                "set tie_word_embeddings: false there"
                for name in apart
            ]
        )


def rows_from_file(card: BackboneCard, model: PreTrainedModel) -> bool:
    """Whether a sharded backbone of this card looks its embeddings up in the weight file.

    Args:
        model: the card's, of any device; its weights are not looked at.
    """
    if not card.path or card.dummy or not looks_up_plainly(model.get_input_embeddings()):
        return False
    try:
        source = SafetensorsSource(Path(card.path))
    except BackboneError:  # a folder for plans: as a release of this family has it
        return not get_checkpoint_conversion_mapping(model.config.model_type)
    source.rename(shared_names(model))
    return not _is_converted(model.config, source, wanted_of(model))


def _partitioned(zero_config: dict[str, Any]) -> Any:
    """DeepSpeed's zero.Init, but nothing is sent from rank 0: what is there before the shards are filled is
    nobody's.
    """
    import deepspeed
    from deepspeed.utils import groups

    # DeepSpeed refuses a second backbone with secondary shards in a process while it knows the first one's group, which
    # that one goes on using
    groups._ZERO_PARAM_INTRA_PARALLEL_GROUP = None

    class Partitioned(deepspeed.zero.Init):
        def _zero_init_param(self, param: Any) -> None:
            self._convert_to_deepspeed_param(param)
            param.partition()

    return Partitioned(config_dict_or_path=zero_config)


@contextlib.contextmanager
def experts_as_released(config: PreTrainedConfig) -> Iterator[None]:
    """Within, gpt-oss is built with experts that stay packed, if the configuration says that they are."""
    if not stays_packed(config):
        yield
        return
    from transformers.models.gpt_oss import modeling_gpt_oss

    wide = modeling_gpt_oss.GptOssExperts
    modeling_gpt_oss.GptOssExperts = Mxfp4Experts
    try:
        yield
    finally:
        modeling_gpt_oss.GptOssExperts = wide


def stays_packed(config: PreTrainedConfig) -> bool:
    """Whether the experts are MXFP4 in memory."""
    return bool(getattr(config, "quantization_config", None))


def backbone_config(card: BackboneCard) -> PreTrainedConfig:
    """transformers' configuration of the card.

    It has no ``quantization_config`` where weights are widened as they are read, and is untied where the files hold
    a head of its own.

    Raises:
        BackboneError: unknown model_type, or a family or file this project cannot train through.
    """
    config = _written_config(card)
    if _untied(card, config):
        config.tie_word_embeddings = False
    return config


def untied_by_file(card: BackboneCard) -> list[tuple[str, str]]:
    """Pairs (head, embedding) that the configuration ties and the weight files hold with different values.

    transformers keeps both then, and so does this project.
    """
    return _untied(card, _written_config(card))


def _untied(card: BackboneCard, config: PreTrainedConfig) -> list[tuple[str, str]]:
    if not card.path or card.dummy or not getattr(config, "tie_word_embeddings", False):
        return []
    return kept_apart(Path(card.path), MODEL_FOR_CAUSAL_LM_MAPPING[type(config)], getattr(torch, card.dtype))


def _written_config(card: BackboneCard) -> PreTrainedConfig:
    """As it stands in the card or its folder, checked."""
    if card.random:
        keys = dict(card.random)
        kind = keys.pop("model_type")
        try:
            config = AutoConfig.for_model(kind, **keys)
        except Exception as error:  # transformers has its own kinds for a configuration that contradicts itself
            raise BackboneError(f"backbone {card.name}: random: {' '.join(str(error).split())[:200]}") from None
    else:
        try:
            config = AutoConfig.from_pretrained(card.path, local_files_only=True, trust_remote_code=False)
        except Exception as error:
            if "trust_remote_code" in str(error):
                reason = (
                    "brings Python code of its own, which is never run; the family must be one of the installed "
                    "transformers"
                )
                raise BackboneError(f"backbone {card.path}: {reason}") from None
            raise BackboneError(
                f"backbone {card.path}: config.json cannot be read ({' '.join(str(error).split())[:200]})"
            ) from None
    if card.attention and card.attention not in ALL_ATTENTION_FUNCTIONS and card.attention != "eager":
        raise BackboneError(
            f"backbone {card.name}: attention: {card.attention!r} is not known to transformers; for example sdpa "
            "or eager"
        )
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise BackboneError(
            f"backbone {card.name}: {config.model_type} is no causal language model in this transformers release"
        )
    _check_packing(card, config)
    for key in LOGIT_TRANSFORMS:
        if getattr(config, key, None) not in (None, 1, 1.0):
            raise BackboneError(f"backbone {card.name}: {key} changes logits outside the head, which is not supported")
    return config


def _check_packing(card: BackboneCard, config: PreTrainedConfig) -> None:
    packing = getattr(config, "quantization_config", None)
    if not packing:
        if card.dequantize:
            raise BackboneError(f"backbone {card.name}: dequantize: the weights are not packed; take the key away")
        return
    method = packing.get("quant_method") if isinstance(packing, dict) else getattr(packing, "quant_method", None)
    if config.model_type != "gpt_oss" or method != "mxfp4":
        raise BackboneError(
            f"backbone {card.name}: {method} weights cannot be trained through; give a bfloat16 folder, or "
            "gpt-oss in MXFP4"
        )
    if config.hidden_size % BLOCK or config.intermediate_size % BLOCK:
        raise BackboneError(
            f"backbone {card.name}: MXFP4 packs {BLOCK} numbers; hidden_size and intermediate_size must be multiples"
        )
    if card.dequantize:
        del config.quantization_config


def backbone_fingerprint(card: BackboneCard) -> str:
    """Hash of what decides the frozen weights: the card, and for a folder its files."""
    files = folder_fingerprint(Path(card.path)) if card.path and not card.dummy else ""
    return hashlib.sha256((card.fingerprint() + files).encode()).hexdigest()


def recompute_first(model: nn.Module, layers: int) -> None:
    """Of the first so many decoder layers keep the inputs alone and compute the rest again in the backward pass.

    transformers does it in training mode only, in which layers also drop out; here the model stays as it is evaluated.

    Raises:
        BackboneError: a family whose layers transformers does not know how to compute again.
    """
    found = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    if layers and not found:
        name = type(model).__name__
        raise BackboneError(
            f"{name}: transformers cannot compute layers of this family again; set activation_checkpointing: none"
        )
    for layer in found[:layers]:
        layer.forward = _computed_again(layer.forward, model.config)


def _computed_again(plain: Callable[..., Any], config: Any) -> Callable[..., Any]:
    def forward(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return plain(*args, **kwargs)
        attention = config._attn_implementation

        def same(*args: Any, **kwargs: Any) -> Any:
            now, config._attn_implementation = config._attn_implementation, attention
            try:
                return plain(*args, **kwargs)
            finally:
                config._attn_implementation = now

        # nothing is drawn in a frozen layer: no random state to keep
        return checkpoint(same, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)

    return forward


def parameter_count(model: nn.Module) -> int:
    """Numbers in the whole backbone, however it is partitioned or packed; tied weights once."""
    per_element = {"_blocks": 2, "_scales": 0}  # MXFP4: two numbers a byte
    elsewhere = sum(m.numbers for m in model.modules() if isinstance(m, RowsFromFile) and not _shared_with_head(model))
    return elsewhere + sum(
        getattr(p, "ds_numel", p.numel()) * per_element.get(n[-7:], 1) for n, p in model.named_parameters()
    )


def _shared_with_head(model: Any) -> bool:
    return bool(model.config.tie_word_embeddings)


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
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    digest.update(json.dumps(len(list(model.parameters()))).encode())
    return digest.hexdigest()
