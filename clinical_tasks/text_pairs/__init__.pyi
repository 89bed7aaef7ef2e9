from .chunking import split_long as split_long
from .parse import parse_answer as parse_answer
from .serialise import NONE as NONE, document_of as document_of, make_example as make_example

__all__ = [
    "NONE",
    "document_of",
    "make_example",
    "parse_answer",
    "split_long",
]
