"""``tasks list``: every task card."""

from collections.abc import Sequence


def tasks_list(cards: Sequence[str] = ()) -> None:
    """Name, type, metric, access and licence of every task card, embedded and in the folders ``cards``."""
    from engine.config import DataConfig
    from engine.data import load_cards

    rows = [("task", "type", "metric", "access", "licence")]
    for _, card in sorted(load_cards(DataConfig(cards=list(cards))).items()):
        rows.append((card.name, card.type, card.metric, card.access, card.licence))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    for row in rows:
        print("  ".join(value.ljust(width) for value, width in zip(row, widths, strict=False)) + "  " + row[4])
