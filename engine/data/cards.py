"""The task cards that a run may name. Modules that read corpora are not needed for them."""

from collections.abc import Iterable

import clinical_tasks
from clinical_tasks import TaskCard
from engine.config import DataConfig, expand_or_tell
from engine.core import UserError
from strict_yaml import did_you_mean


def load_cards(config: DataConfig) -> dict[str, TaskCard]:
    """Every card this run may name: embedded ones, then the user's folders.

    Raises:
        UserError: a folder is missing or a card is wrong, all problems at once.
    """
    missing: list[str] = []
    found = [expand_or_tell(folder, "data.cards", missing) for folder in config.cards]
    folders = [folder for folder in found if folder is not None]
    missing += [f"data.cards: folder {folder} does not exist" for folder in folders if not folder.is_dir()]
    if missing:
        raise UserError(missing)
    try:
        return clinical_tasks.load_cards(folders)
    except clinical_tasks.CardError as error:
        raise UserError(getattr(error, "problems", None) or str(error)) from None


def unknown_task(task: str, cards: Iterable[str]) -> str:
    """The sentence that every unknown task gets."""
    return f"unknown task {task!r}" + (did_you_mean(task, cards) or "; see `python train.py tasks list`")
