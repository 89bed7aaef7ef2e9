from . import gathered as gathered, in_parts as in_parts, shared_prefix as shared_prefix
from .decoding import Slots as Slots
from .gathered import GatheredAttention as GatheredAttention
from .in_parts import AttentionInParts as AttentionInParts
from .packing import (
    GatheredKeys as GatheredKeys,
    PackedBatch as PackedBatch,
    SharedPrefix as SharedPrefix,
    share_prefix as share_prefix,
    to_device as to_device,
)
from .shared_prefix import PACKED_FAMILIES as PACKED_FAMILIES

__all__ = [
    "PACKED_FAMILIES",
    "AttentionInParts",
    "GatheredAttention",
    "GatheredKeys",
    "PackedBatch",
    "SharedPrefix",
    "Slots",
    "gathered",
    "in_parts",
    "share_prefix",
    "shared_prefix",
    "to_device",
]
