"""``tasks list``: every task card."""

from collections.abc import Sequence

from engine.core import aligned_columns


def tasks_list(cards: Sequence[str] = ()) -> None:
    """Name, type, metric, access and licence of every task card, embedded and in the folders ``cards``."""
    from engine.config import DataConfig
    from engine.data import load_cards

    rows = [("task", "type", "metric", "access", "licence")]
    for _, card in sorted(load_cards(DataConfig(cards=list(cards))).items()):
        rows.append((card.name, card.type, card.metric, card.access, card.licence))
    for line in aligned_columns(rows, right=False):
        print(line)
