"""What a run says of itself: metrics.jsonl and TensorBoard, time by phase, time to the first step, FLOPs."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
