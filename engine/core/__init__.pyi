from .atomic_files import (
    is_creatable as is_creatable,
    nearest_existing as nearest_existing,
    new_partial as new_partial,
    publish as publish,
    remove as remove,
    sync as sync,
    write_atomic as write_atomic,
)
from .chart_png import line_chart as line_chart, stacked_bar_chart as stacked_bar_chart
from .checksums import damage as damage, seal as seal, sha256_of as sha256_of, unsealed as unsealed
from .determinism import deterministic as deterministic, workspace_problems as workspace_problems
from .environment import (
    library_versions as library_versions,
    machine_info as machine_info,
    source_commit as source_commit,
)
from .errors import DoesNotFit as DoesNotFit, Slower as Slower, Stopped as Stopped, UserError as UserError
from .next_step import next_step as next_step, without_next_steps as without_next_steps
from .privacy import (
    CODE_CACHES as CODE_CACHES,
    LIBRARIES as LIBRARIES,
    library_folder as library_folder,
    protect as protect,
)
from .resources import resource_folder as resource_folder, source_tree as source_tree
from .size_text import size_text as size_text
from .text_table import aligned_columns as aligned_columns, markdown_table as markdown_table

__all__ = [
    "CODE_CACHES",
    "LIBRARIES",
    "DoesNotFit",
    "Slower",
    "Stopped",
    "UserError",
    "aligned_columns",
    "damage",
    "deterministic",
    "is_creatable",
    "library_folder",
    "library_versions",
    "line_chart",
    "machine_info",
    "markdown_table",
    "nearest_existing",
    "new_partial",
    "next_step",
    "protect",
    "publish",
    "remove",
    "resource_folder",
    "seal",
    "sha256_of",
    "size_text",
    "source_commit",
    "source_tree",
    "stacked_bar_chart",
    "sync",
    "unsealed",
    "without_next_steps",
    "workspace_problems",
    "write_atomic",
]
