from .export import export_run as export_run
from .formats import FORMATS as FORMATS

__all__ = [
    "FORMATS",
    "export_run",
]
