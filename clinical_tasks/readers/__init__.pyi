from .files import (
    find_files as find_files,
    is_file as is_file,
    open_bytes as open_bytes,
    read_text as read_text,
    watching_files as watching_files,
)
from .options import READER_OPTIONS as READER_OPTIONS, ROW_READERS as ROW_READERS
from .pubtator import read_pubtator as read_pubtator, strip_mesh as strip_mesh
from .registry import READER_VERSIONS as READER_VERSIONS, READERS as READERS, Reader as Reader
from .tables import documents_of_rows as documents_of_rows

__all__ = [
    "READERS",
    "READER_OPTIONS",
    "READER_VERSIONS",
    "ROW_READERS",
    "Reader",
    "documents_of_rows",
    "find_files",
    "is_file",
    "open_bytes",
    "read_pubtator",
    "read_text",
    "strip_mesh",
    "watching_files",
]
