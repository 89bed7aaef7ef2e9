from .export import export_run as export_run

__all__ = [
    "export_run",
]
