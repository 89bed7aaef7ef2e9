"""What a backbone computes and gathers, counted: sizes, module visits, ZeRO-3 gathers."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
