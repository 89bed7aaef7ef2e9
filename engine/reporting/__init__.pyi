from .report import table as table, write_report as write_report

__all__ = [
    "table",
    "write_report",
]
