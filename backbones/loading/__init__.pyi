from .digests import backbone_fingerprint as backbone_fingerprint
from .embedding_rows import RowsFromFile as RowsFromFile, read_rows_from as read_rows_from
from .family_config import backbone_config as backbone_config
from .frozen import (
    build_backbone as build_backbone,
    experts_as_released as experts_as_released,
    rows_from_file as rows_from_file,
)
from .held_weights import (
    backbone_checksum as backbone_checksum,
    parameter_count as parameter_count,
    resident_bytes as resident_bytes,
)
from .recomputation import recompute_first as recompute_first
from .safetensors_source import SafetensorsSource as SafetensorsSource
from .sources import DummySource as DummySource
from .weight_source import Stored as Stored

__all__ = [
    "DummySource",
    "RowsFromFile",
    "SafetensorsSource",
    "Stored",
    "backbone_checksum",
    "backbone_config",
    "backbone_fingerprint",
    "build_backbone",
    "experts_as_released",
    "parameter_count",
    "read_rows_from",
    "recompute_first",
    "resident_bytes",
    "rows_from_file",
]
