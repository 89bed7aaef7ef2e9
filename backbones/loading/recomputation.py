"""Activation checkpointing of decoder layers, in a model that stays as it is evaluated."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from backbones.card import BackboneError


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
            f"{name}: transformers cannot recompute layers of this family; set activation_checkpointing: none"
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
