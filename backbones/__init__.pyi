from .attention import (
    PACKED_FAMILIES as PACKED_FAMILIES,
    PackedBatch as PackedBatch,
    SharedPrefix as SharedPrefix,
    share_prefix as share_prefix,
)
from .card import BackboneCard as BackboneCard, BackboneError as BackboneError, load_backbone_card as load_backbone_card
from .layout import Layout as Layout
from .loading import (
    backbone_checksum as backbone_checksum,
    build_backbone as build_backbone,
    parameter_count as parameter_count,
    resident_bytes as resident_bytes,
)
from .root import BackboneCalls as BackboneCalls, Batch as Batch, FrozenRoot as FrozenRoot
from .tokenizer import TextTokenizer as TextTokenizer, load_tokenizer as load_tokenizer
from .tracing import GatherCounter as GatherCounter, Gathered as Gathered

__all__ = [
    "PACKED_FAMILIES",
    "BackboneCalls",
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
