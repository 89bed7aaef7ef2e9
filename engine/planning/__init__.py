"""``plan``: memory, bytes, time and hours of a job before it is submitted."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
