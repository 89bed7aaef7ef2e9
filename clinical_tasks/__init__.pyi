from .audit import TaskCheck as TaskCheck, check_tasks as check_tasks, format_checks as format_checks
from .corpus import read_split as read_split
from .inference import brat_lines as brat_lines, note_result as note_result, read_notes as read_notes
from .metrics import (
    interval as interval,
    pubtator_mention_counts as pubtator_mention_counts,
    pubtator_relation_counts as pubtator_relation_counts,
    rule as rule,
)
from .readers import read_pubtator as read_pubtator
from .schema import (
    CardError as CardError,
    Document as Document,
    Example as Example,
    Mention as Mention,
    ReadError as ReadError,
    Relation as Relation,
    TaskCard as TaskCard,
)
from .scoring import Evaluation as Evaluation, evaluate as evaluate, round_trip as round_trip, score as score
from .task_card import card_json_schema as card_json_schema, load_card as load_card, load_cards as load_cards
from .text_pairs import parse_answer as parse_answer, split_long as split_long

__all__ = [
    "CardError",
    "Document",
    "Evaluation",
    "Example",
    "Mention",
    "ReadError",
    "Relation",
    "TaskCard",
    "TaskCheck",
    "brat_lines",
    "card_json_schema",
    "check_tasks",
    "evaluate",
    "format_checks",
    "interval",
    "load_card",
    "load_cards",
    "note_result",
    "parse_answer",
    "pubtator_mention_counts",
    "pubtator_relation_counts",
    "read_notes",
    "read_pubtator",
    "read_split",
    "round_trip",
    "rule",
    "score",
    "split_long",
]
