"""Build a frozen backbone, plain or partitioned by ZeRO-3, with every shard filled and every buffer right."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.conversion_mapping import get_checkpoint_conversion_mapping
from transformers.initialization import no_init_weights
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from backbones.card import BackboneCard, BackboneError
from backbones.layers import Mxfp4Experts, keep_no_inputs
from backbones.loading.embedding_rows import looks_up_plainly, read_rows_from
from backbones.loading.exact_buffers import rebuild_buffers
from backbones.loading.family_config import backbone_config, stays_packed, untied_by_file
from backbones.loading.from_files import check_names, fill, wanted_of
from backbones.loading.safetensors_source import SafetensorsSource
from backbones.loading.sources import ConvertedSource, DummySource, RandomSource, WidenedExperts
from backbones.loading.tying import shared_names
from backbones.loading.weight_source import WeightSource


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
        print_rank0: takes progress lines.

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
        read_rows_from(model, table_VD=source.mapped(name), dtype=dtype, device=device or torch.device("cpu"))
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
        way = "renames or merges weights while loading; every rank loads the whole model through transformers"
        print_rank0(f"backbone {card.name}: {config.model_type} {way}")
        source = ConvertedSource(Path(card.path))
        _refuse_untied(card, source, tied)
    where = f"{card.path or card.name} as {type(model).__name__}"
    check_names(wanted, found=source.tensors(), tied=set(tied), where=where)
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
    if card.dequantize and not packed:
        return WidenedExperts(source, dtype)
    return source


def _is_converted(config: PreTrainedConfig, source: SafetensorsSource, wanted: dict[str, Any]) -> bool:
    """Whether the family's weights have other names or shapes in its files than in the model."""
    return bool(get_checkpoint_conversion_mapping(config.model_type) and wanted.keys() - source.tensors().keys())


def _refuse_untied(card: BackboneCard, source: ConvertedSource, tied: dict[str, str]) -> None:
    """transformers' loader has kept a weight and the one that it should share apart: their values differ."""
    apart = sorted(source.tensors().keys() & tied.keys())
    if apart:
        remedy = "although config.json ties them; set tie_word_embeddings: false there"
        raise BackboneError([f"backbone {card.path}: {name} differs from {tied[name]}, {remedy}" for name in apart])


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

    class Partitioned(deepspeed.zero.Init):  # type: ignore[misc]
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
