"""Sections of the run configuration: each with its keys, and the checks between its own keys."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
