from .released_files import split_files as split_files
from .splits import (
    code_versions as code_versions,
    holder as holder,
    is_labelled as is_labelled,
    read_split as read_split,
    splits_by_files as splits_by_files,
    stream_documents as stream_documents,
    stream_split as stream_split,
    stream_splits as stream_splits,
)

__all__ = [
    "code_versions",
    "holder",
    "is_labelled",
    "read_split",
    "split_files",
    "splits_by_files",
    "stream_documents",
    "stream_split",
    "stream_splits",
]
