"""The 31 task cards, as Python: what `cards/*.yaml` hold. `python -m clinical_tasks.pocket --output DIR` writes
them to DIR/cards.
"""

from clinical_tasks.pocket.catalogue.sources import SOURCE_CARDS
from clinical_tasks.pocket.catalogue.targets import TARGET_CARDS
from clinical_tasks.pocket.catalogue.text import card_text

__all__ = ["SOURCE_CARDS", "TARGET_CARDS", "card_text"]
