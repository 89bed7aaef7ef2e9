"""Layers of a frozen backbone: fused ones, MXFP4 experts, linear layers with low-rank updates."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
