"""Frozen language models: cards, tokenizers, prompt layout, loading into ZeRO-3 shards."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
