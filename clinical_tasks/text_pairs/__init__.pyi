from .chunking import split_long as split_long
from .parse import parse_answer as parse_answer
from .serialise import (
    NONE as NONE,
    TEXT_PAIRS_VERSION as TEXT_PAIRS_VERSION,
    document_of as document_of,
    make_example as make_example,
)

__all__ = [
    "NONE",
    "TEXT_PAIRS_VERSION",
    "document_of",
    "make_example",
    "parse_answer",
    "split_long",
]
