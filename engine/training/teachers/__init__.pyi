from .cache import TaughtRow as TaughtRow, TeacherCache as TeacherCache, TeacherCacheReader as TeacherCacheReader
from .cache_setup import WORTH as WORTH, cache_teachers as cache_teachers, sample_visits as sample_visits
from .parts import (
    assign_blocks as assign_blocks,
    cut_files as cut_files,
    placeholder_sample as placeholder_sample,
    plan_blocks as plan_blocks,
)
from .peft import check_adapters as check_adapters, read_adapters as read_adapters

__all__ = [
    "WORTH",
    "TaughtRow",
    "TeacherCache",
    "TeacherCacheReader",
    "assign_blocks",
    "cache_teachers",
    "check_adapters",
    "cut_files",
    "placeholder_sample",
    "plan_blocks",
    "read_adapters",
    "sample_visits",
]
