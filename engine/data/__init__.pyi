from .audit import (
    OverlapQuestion as OverlapQuestion,
    TokenQuestion as TokenQuestion,
    check_data as check_data,
    check_problems as check_problems,
)
from .cards import load_cards as load_cards, unknown_task as unknown_task
from .dataset import (
    Split as Split,
    TaskData as TaskData,
    data_fingerprint as data_fingerprint,
    is_tokenised as is_tokenised,
    prepare as prepare,
)
from .decontamination import (
    decontaminate as decontaminate,
    join_overlap_records as join_overlap_records,
    overlap_lines as overlap_lines,
    read_overlap_record as read_overlap_record,
    target_overlap_record as target_overlap_record,
    write_overlap_record as write_overlap_record,
)
from .equal_answers import warn_of_equal_answers as warn_of_equal_answers
from .packing import (
    collate as collate,
    micro_batches as micro_batches,
    pack as pack,
    packed_groups as packed_groups,
    packed_micro_batches as packed_micro_batches,
    padded_groups as padded_groups,
)
from .sample import Sample as Sample, weight_answer_tokens as weight_answer_tokens
from .sampling import (
    EveryRow as EveryRow,
    Stream as Stream,
    TaskMixture as TaskMixture,
    few_shot_order as few_shot_order,
    plan_step as plan_step,
    seed_of as seed_of,
)
from .synthetic import (
    ROWS as ROWS,
    Invention as Invention,
    invented_data as invented_data,
    invention_of as invention_of,
)

__all__ = [
    "ROWS",
    "EveryRow",
    "Invention",
    "OverlapQuestion",
    "Sample",
    "Split",
    "Stream",
    "TaskData",
    "TaskMixture",
    "TokenQuestion",
    "check_data",
    "check_problems",
    "collate",
    "data_fingerprint",
    "decontaminate",
    "few_shot_order",
    "invented_data",
    "invention_of",
    "is_tokenised",
    "join_overlap_records",
    "load_cards",
    "micro_batches",
    "overlap_lines",
    "pack",
    "packed_groups",
    "packed_micro_batches",
    "padded_groups",
    "plan_step",
    "prepare",
    "read_overlap_record",
    "seed_of",
    "target_overlap_record",
    "unknown_task",
    "warn_of_equal_answers",
    "weight_answer_tokens",
    "write_overlap_record",
]
