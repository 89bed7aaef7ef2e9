from .fused import available as available

__all__ = [
    "available",
]
