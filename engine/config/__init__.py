"""The run configuration: its keys, how a file and flags become one, what may change on resume."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
