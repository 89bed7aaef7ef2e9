"""transformers' configuration of a backbone, checked: can this project train through the family and its files?"""

from pathlib import Path

import torch
from transformers import AutoConfig, PreTrainedConfig
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from backbones.card import BackboneCard, BackboneError
from backbones.layers import BLOCK
from backbones.loading.tying import stored_apart

# families that scale or cap logits outside the head: the head on answer tokens alone would be wrong for them
LOGIT_TRANSFORMS = ("final_logit_softcapping", "logits_scaling", "logit_scale")


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
    return stored_apart(Path(card.path), MODEL_FOR_CAUSAL_LM_MAPPING[type(config)], getattr(torch, card.dtype))


def _written_config(card: BackboneCard) -> PreTrainedConfig:
    """As it stands in the card or its folder, checked."""
    config = _read_config(card)
    if card.attention and card.attention not in ALL_ATTENTION_FUNCTIONS and card.attention != "eager":
        raise BackboneError(
            f"backbone {card.name}: attention: transformers does not know {card.attention!r}; use for example sdpa "
            "or eager"
        )
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise BackboneError(
            f"backbone {card.name}: {config.model_type} is not a causal language model in this transformers release"
        )
    _check_packing(card, config)
    for key in LOGIT_TRANSFORMS:
        if getattr(config, key, None) not in (None, 1, 1.0):
            raise BackboneError(f"backbone {card.name}: {key} changes logits outside the head, which is not supported")
    return config


def _read_config(card: BackboneCard) -> PreTrainedConfig:
    if card.random:
        keys = dict(card.random)
        kind = keys.pop("model_type")
        try:
            return AutoConfig.for_model(kind, **keys)
        except Exception as error:  # transformers has its own kinds for a configuration that contradicts itself
            raise BackboneError(f"backbone {card.name}: random: {_one_line(error)}") from None
    try:
        return AutoConfig.from_pretrained(card.path, local_files_only=True, trust_remote_code=False)
    except Exception as error:
        if "trust_remote_code" in str(error):
            reason = (
                "needs Python code of its own, which is never run; the family must be part of the installed "
                "transformers"
            )
            raise BackboneError(f"backbone {card.path}: {reason}") from None
        raise BackboneError(f"backbone {card.path}: config.json cannot be read ({_one_line(error)})") from None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _check_packing(card: BackboneCard, config: PreTrainedConfig) -> None:
    packing = getattr(config, "quantization_config", None)
    if not packing:
        if card.dequantize:
            raise BackboneError(f"backbone {card.name}: dequantize: the weights are not packed; remove the key")
        return
    method = packing.get("quant_method") if isinstance(packing, dict) else getattr(packing, "quant_method", None)
    if config.model_type != "gpt_oss" or method != "mxfp4":
        raise BackboneError(
            f"backbone {card.name}: {method} weights do not pass gradients; use a bfloat16 folder, or gpt-oss in MXFP4"
        )
    if config.hidden_size % BLOCK or config.intermediate_size % BLOCK:
        raise BackboneError(
            f"backbone {card.name}: MXFP4 packs {BLOCK} numbers; hidden_size and intermediate_size must be multiples"
        )
    if card.dequantize:
        del config.quantization_config


def stays_packed(config: PreTrainedConfig) -> bool:
    """Whether the experts are MXFP4 in memory."""
    return bool(getattr(config, "quantization_config", None))
