from .card import (
    SPLITS as SPLITS,
    OptionsSpec as OptionsSpec,
    RelationSpec as RelationSpec,
    SplitSpec as SplitSpec,
    TaskCard as TaskCard,
)
from .cells import (
    ABSENT as ABSENT,
    KEY_COLUMN as KEY_COLUMN,
    PARENT_COLUMN as PARENT_COLUMN,
    as_text as as_text,
    holds_object as holds_object,
    is_absent as is_absent,
    lookup as lookup,
)
from .documents import (
    Document as Document,
    Example as Example,
    Mention as Mention,
    Relation as Relation,
    mention_order as mention_order,
    one_line as one_line,
)
from .errors import (
    CardError as CardError,
    ReadError as ReadError,
    did_you_mean as did_you_mean,
    read_error as read_error,
)
from .options import (
    choices as choices,
    counted_answers as counted_answers,
    gold_index as gold_index,
    row_error as row_error,
)

__all__ = [
    "ABSENT",
    "KEY_COLUMN",
    "PARENT_COLUMN",
    "SPLITS",
    "CardError",
    "Document",
    "Example",
    "Mention",
    "OptionsSpec",
    "ReadError",
    "Relation",
    "RelationSpec",
    "SplitSpec",
    "TaskCard",
    "as_text",
    "choices",
    "counted_answers",
    "did_you_mean",
    "gold_index",
    "holds_object",
    "is_absent",
    "lookup",
    "mention_order",
    "one_line",
    "read_error",
    "row_error",
]
