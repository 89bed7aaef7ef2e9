"""The stages (teach, distill, adapt), the trainer that runs them, and the cache of teachers."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
