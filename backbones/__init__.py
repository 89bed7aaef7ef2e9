"""Frozen language models: cards, tokenizers, prompt layout, loading into ZeRO-3 shards."""

from backbones.card import BackboneCard, BackboneError, load_backbone_card
from backbones.frozen import backbone_checksum, build_backbone, parameter_count, resident_bytes
from backbones.gathers import GatherCounter, Gathered
from backbones.layout import Layout
from backbones.packing import PackedBatch, SharedPrefix, share_prefix
from backbones.root import Batch, FrozenRoot
from backbones.shared_prefix import FAMILIES as PACKED_FAMILIES
from backbones.tokenizer import TextTokenizer, load_tokenizer

__all__ = [
    "PACKED_FAMILIES",
    "BackboneCard",
    "BackboneError",
    "Batch",
    "FrozenRoot",
    "GatherCounter",
    "Gathered",
    "Layout",
    "PackedBatch",
    "SharedPrefix",
    "TextTokenizer",
    "backbone_checksum",
    "build_backbone",
    "load_backbone_card",
    "load_tokenizer",
    "parameter_count",
    "resident_bytes",
    "share_prefix",
]
