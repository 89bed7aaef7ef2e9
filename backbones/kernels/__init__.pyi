from . import experts as experts, fused as fused, mxfp4 as mxfp4
from .fused import available as available

__all__ = [
    "available",
    "experts",
    "fused",
    "mxfp4",
]
