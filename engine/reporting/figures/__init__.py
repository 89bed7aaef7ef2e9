"""Figures of a report as inline SVG: scores, costs, losses, prompts, each with the numbers that it shows."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
