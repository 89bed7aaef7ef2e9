"""What can be found wrong with a command before torch is imported: all of it, for every mode."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
