"""How large a backbone is, by part, and what a token costs in activations: from its configuration, no weight is made.

Of weight files, where there are any, it only asks whether a tied head is tied there too, and whether embeddings can be
read from them.
"""

import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.initialization import no_init_weights

from backbones.card import BackboneCard
from backbones.layers import BLOCK, GATED, NORMS
from backbones.loading import backbone_config, experts_as_released, parameter_count, rows_from_file


@dataclass(frozen=True)
class ModelFootprint:
    """Bytes, except where a name says otherwise; elements are what DeepSpeed counts (a packed byte is one).

    numbers: of the backbone. itemsize: of an activation. layers: of each decoder layer. saved_per_token: what a layer
        keeps of each token
    for the backward pass, sharded or not; saved_fused: with operators joined (``backbones.layers.fused``).
    working_per_token: alive for a moment within a layer's backward pass. widened: memory that MXFP4
    experts are widened into, of one expert and of a layer. linear_sides: inputs and outputs of all linear layers but
    the head, added up: LoRA's numbers at rank 1. linear_inputs: what linear layers read of each token, in a layer.
        rows_from_file: whether a sharded backbone looks its
    embeddings up in the file. active: numbers of all decoder layers that a token is multiplied with (of the experts
        those chosen). queries: width of a
    layer's queries. experts: of a layer, and chosen for a token; (1, 1) where there are none. parameters: name,
    elements and bytes of an element of each.
    blocks: of a layer's activations as wide as the model, and of those as wide as its inner layer: bytes a token of
        one, and how much of saved_per_token
    and of working_per_token they are.
    """

    numbers: int
    hidden: int
    vocabulary: int
    itemsize: int
    embedding: int
    head: int
    other: int
    layers: tuple[int, ...]
    layer_elements: int
    vocabulary_elements: int
    tensors: tuple[int, ...]
    saved_per_token: int
    working_per_token: int
    widened: tuple[int, int]
    linear_sides: int = 0
    linear_inputs: int = 0
    rows_from_file: bool = False
    active: int = 0
    queries: int = 0
    experts: tuple[int, int] = (1, 1)
    parameters: tuple[tuple[str, int, int], ...] = ()
    blocks: tuple[tuple[int, int, int], ...] = ()
    saved_fused: int = 0

    @property
    def weights(self) -> int:
        return self.embedding + self.head + self.other + sum(self.layers)

    @property
    def sharded_tensors(self) -> tuple[int, ...]:
        """Of each parameter that a sharded backbone partitions; the first is the embedding's, which a head may
        share.
        """
        if self.rows_from_file and self.head:
            return self.tensors[1:]
        return self.tensors

    @property
    def moved(self) -> int:
        """What one micro-batch of training gathers: every layer for the forward and again for the backward pass,
        the rest once.
        """
        lookup = 0 if self.rows_from_file else self.embedding
        return 2 * sum(self.layers) + self.other + lookup + (self.head or self.embedding)


def measure_footprint(card: BackboneCard) -> ModelFootprint:
    """Sizes of the card's backbone.

    Raises:
        BackboneError: as build_backbone's.
    """
    config, dtype = backbone_config(card), getattr(torch, card.dtype)
    with no_init_weights(), experts_as_released(config), torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    model.tie_weights()
    of, layers = _by_place(model)
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    b, heads = dtype.itemsize, config.num_attention_heads
    inner, chosen = config.intermediate_size, getattr(config, "num_experts_per_tok", None)
    queries = heads * _head_width(config)
    attention, middle, fused = _saved_by_layer(model, config, b)
    linears: dict[str, nn.Linear] = {}
    for name, module in model.named_modules():
        if type(module) is nn.Linear and module is not model.get_output_embeddings():
            linears[name] = module
    routed = getattr(config, "num_local_experts", None) or 0
    active = sum(linear.weight.numel() for linear in linears.values())
    if routed:  # a stack of experts, and a router that is no nn.Linear
        per_layer = config.hidden_size * (3 * inner * chosen + routed)
        active += per_layer * len(layers)
    expert = max((p.shape[1] * p.shape[2] for p in layers[0] if p.dim() == 4), default=0) * BLOCK * b
    blocks = (
        (4 * config.hidden_size, attention, 12 * config.hidden_size + b * queries * (chosen or 1)),
        (b * inner * (chosen or 1) // (routed or 1), middle, b * 4 * inner * (chosen or 1)),
    )
    layer_bytes, layer_elements = [], []
    for number in sorted(layers):
        layer_bytes.append(sum(_bytes(parameter) for parameter in layers[number]))
        layer_elements.append(sum(parameter.numel() for parameter in layers[number]))
    return ModelFootprint(
        numbers=parameter_count(model),
        hidden=config.hidden_size,
        vocabulary=config.vocab_size,
        itemsize=b,
        embedding=of["embedding"],
        head=of["head"],
        other=of["other"],
        layers=tuple(layer_bytes),
        layer_elements=max(layer_elements),
        vocabulary_elements=config.vocab_size * config.hidden_size * (1 if tied else 2),
        tensors=tuple(_bytes(parameter) for parameter in model.parameters()),
        saved_per_token=attention + middle,
        saved_fused=fused,
        blocks=blocks,
        working_per_token=sum(working for _, _, working in blocks),
        linear_sides=sum(m.in_features + m.out_features for m in linears.values()),
        linear_inputs=b * sum(m.in_features for n, m in linears.items() if ".layers.0." in n),
        rows_from_file=rows_from_file(card, model),
        widened=(expert, expert * routed),
        active=active,
        queries=queries,
        experts=(routed or 1, chosen or 1),
        parameters=tuple((n, p.numel(), p.element_size()) for n, p in model.named_parameters()),
    )


def _head_width(config: Any) -> int:
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def _saved_by_layer(model: PreTrainedModel, config: Any, b: int) -> tuple[int, int, int]:
    """Bytes that a layer keeps of each token for the backward pass: around attention, of the inner layer, and of both
    with operators joined.

    Args:
        b: bytes of one of the backbone's numbers.
    """
    heads, width = config.num_attention_heads, _head_width(config)
    queries, keys = heads * width, (getattr(config, "num_key_value_heads", None) or heads) * width
    inner, chosen = config.intermediate_size, getattr(config, "num_experts_per_tok", None)
    # transformers' norms keep their input in fp32; attention keeps q, k, v, its output and log-sum-exp
    attention = 2 * 4 * config.hidden_size + b * (2 * queries + 2 * keys) + 4 * heads
    leaves = {name.rpartition("layers.0.")[2] for name, _ in model.named_parameters()}
    normed = 2 * config.hidden_size
    if "self_attn.q_norm.weight" in leaves:
        attention += 4 * (queries + keys)
        normed += queries + keys
    # v is a part of a memory that holds q and k as they were before their rotation
    if "self_attn.qkv_proj.weight" in leaves:
        attention += b * (queries + keys)
    if chosen is None:
        middle = 3 * b * inner
    elif "mlp.experts.down_proj_blocks" in leaves:
        middle = 2 * b * inner * chosen
    else:  # transformers' experts keep the first product, what the gate makes of it, and a row of the second
        middle = b * chosen * (6 * inner + config.hidden_size)
    fused = attention + middle
    kinds = {type(module).__name__ for module in model.modules()}
    if kinds & NORMS.keys():  # fused norms keep their input as it is
        fused -= (4 - b) * normed
    if kinds & set(GATED):  # a fused SwiGLU keeps no product of its own
        fused -= b * inner
    return attention, middle, fused


def _by_place(model: PreTrainedModel) -> tuple[dict[str, int], dict[int, list[nn.Parameter]]]:
    """Bytes of the embedding, of a head of its own and of what else lies outside the layers; each layer's parameters
    by its number.
    """
    of = {"embedding": 0, "head": 0, "other": 0}
    layers: dict[int, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        place = re.search(r"\.layers\.(\d+)\.", name)
        if place:
            layers.setdefault(int(place[1]), []).append(parameter)
        elif parameter is model.get_input_embeddings().weight:
            of["embedding"] += _bytes(parameter)
        elif parameter is model.get_output_embeddings().weight:
            of["head"] += _bytes(parameter)
        else:
            of["other"] += _bytes(parameter)
    return of, layers


def _bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()
