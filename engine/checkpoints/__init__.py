"""Checkpoints of what is trained, the store of what seldom changes, and the lock of a run directory."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
