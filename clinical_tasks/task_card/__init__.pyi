from .load import load_card as load_card, load_cards as load_cards

__all__ = [
    "load_card",
    "load_cards",
]
