from .editor_schema import card_json_schema as card_json_schema
from .load import load_card as load_card, load_cards as load_cards

__all__ = [
    "card_json_schema",
    "load_card",
    "load_cards",
]
