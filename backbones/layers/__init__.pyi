from . import mxfp4_experts as mxfp4_experts
from .frozen_linear import keep_no_inputs as keep_no_inputs
from .fused import (
    GATED as GATED,
    NORMS as NORMS,
    fuse as fuse,
    is_fused as is_fused,
    unfuse as unfuse,
    unfused as unfused,
)
from .linear_updates import LinearUpdates as LinearUpdates
from .mxfp4_experts import (
    BLOCK as BLOCK,
    PACKED as PACKED,
    Mxfp4Experts as Mxfp4Experts,
    dequantise as dequantise,
    quantise as quantise,
)

__all__ = [
    "BLOCK",
    "GATED",
    "NORMS",
    "PACKED",
    "LinearUpdates",
    "Mxfp4Experts",
    "dequantise",
    "fuse",
    "is_fused",
    "keep_no_inputs",
    "mxfp4_experts",
    "quantise",
    "unfuse",
    "unfused",
]
