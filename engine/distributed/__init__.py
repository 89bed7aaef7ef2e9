"""Ranks, ZeRO-3, where the backbone lives, and what a job is checked for before it starts."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
