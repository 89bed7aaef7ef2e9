from .embedding_rows import RowsFromFile as RowsFromFile, read_rows_from as read_rows_from
from .frozen import (
    backbone_checksum as backbone_checksum,
    backbone_config as backbone_config,
    backbone_fingerprint as backbone_fingerprint,
    build_backbone as build_backbone,
    experts_as_released as experts_as_released,
    parameter_count as parameter_count,
    recompute_first as recompute_first,
    resident_bytes as resident_bytes,
    rows_from_file as rows_from_file,
)
from .sources import DummySource as DummySource, SafetensorsSource as SafetensorsSource, Stored as Stored

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
