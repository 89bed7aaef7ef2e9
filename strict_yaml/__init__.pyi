from .keys import (
    NO_KEY as NO_KEY,
    Leaf as Leaf,
    about as about,
    fields_of as fields_of,
    leaves as leaves,
)
from .messages import (
    BOUNDS as BOUNDS,
    TYPES as TYPES,
    Problem as Problem,
    choices_of as choices_of,
    counted as counted,
    must_be_one_of as must_be_one_of,
    shown as shown,
)
from .reader import (
    FileProblem as FileProblem,
    UnreadableFile as UnreadableFile,
    parse as parse,
    read_mapping as read_mapping,
)
from .structure import build as build, json_schema as json_schema
from .suggestions import did_you_mean as did_you_mean, nearest as nearest, shown_key as shown_key

__all__ = [
    "BOUNDS",
    "NO_KEY",
    "TYPES",
    "FileProblem",
    "Leaf",
    "Problem",
    "UnreadableFile",
    "about",
    "build",
    "choices_of",
    "counted",
    "did_you_mean",
    "fields_of",
    "json_schema",
    "leaves",
    "must_be_one_of",
    "nearest",
    "parse",
    "read_mapping",
    "shown",
    "shown_key",
]
