"""Answers of trained prompts, scored by the tasks' official metrics; answers for a user's own notes."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
