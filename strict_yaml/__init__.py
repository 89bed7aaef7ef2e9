"""YAML files that become dataclasses, strictly: one behaviour for run configurations, task cards, backbone cards and
machine files.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
