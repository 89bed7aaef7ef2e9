"""Teachers of a distillation: given as PEFT adapters, or trained and asked once, their states kept on disk."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
