"""How many numbers a backbone has, and which of their bytes this rank holds."""

import hashlib
import json
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from backbones.loading.embedding_rows import RowsFromFile


def parameter_count(model: nn.Module) -> int:
    """Numbers in the whole backbone, however it is partitioned or packed; tied weights once."""
    per_element = {"_blocks": 2, "_scales": 0}  # MXFP4: two numbers a byte
    total = 0
    for name, parameter in model.named_parameters():
        total += getattr(parameter, "ds_numel", parameter.numel()) * per_element.get(name[-7:], 1)
    for module in model.modules():
        if isinstance(module, RowsFromFile) and not _shared_with_head(model):
            total += module.numbers
    return total


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
