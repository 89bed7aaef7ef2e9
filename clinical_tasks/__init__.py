"""From released clinical corpora to text pairs and back to official metrics.

A *task card* (YAML) says where a corpus lies and how it is written; nothing here knows about models. No text of a note
is ever printed or put into an error: messages name file, line, key, reason and fix.
"""

from clinical_tasks.card import TaskCard
from clinical_tasks.card_loading import load_card, load_cards
from clinical_tasks.check_table import format_checks
from clinical_tasks.checking import TaskCheck, check_tasks
from clinical_tasks.documents import Document, Example, Mention, Relation
from clinical_tasks.errors import CardError, ReadError
from clinical_tasks.metrics.bootstrap import interval
from clinical_tasks.metrics.rules import rule
from clinical_tasks.metrics.spans import pubtator_mention_counts, pubtator_relation_counts
from clinical_tasks.own_notes import brat_lines, note_result, read_notes
from clinical_tasks.parsing import parse_answer
from clinical_tasks.readers.pubtator import read_pubtator
from clinical_tasks.scoring import Evaluation, evaluate, round_trip, score
from clinical_tasks.splits import read_split
from clinical_tasks.splitting import split_long

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
