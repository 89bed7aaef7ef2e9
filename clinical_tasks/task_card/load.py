"""Finding and loading task cards: those embedded in the package, and the user's, which override by name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clinical_tasks.schema import CardError, TaskCard
from clinical_tasks.task_card.validate import build_card
from strict_yaml import UnreadableFile, must_be_one_of, read_mapping

EMBEDDED_CARDS = Path(__file__).parents[1] / "cards"


def embedded_names() -> list[str]:
    """The cards that `extends` may name."""
    return sorted(file.stem for file in EMBEDDED_CARDS.glob("*.yaml"))


def load_card(path: Path | str) -> TaskCard:
    """Load and check one card. Raises `CardError` with everything that is wrong with it.

    `extends: NAME` starts from an embedded card; each top-level key that is given replaces that card's.
    """
    path = Path(path)
    raw = _read(path)
    base = raw.pop("extends", None)
    if base is not None:
        names = embedded_names()
        if base not in names:
            raise CardError(path, ["extends: " + must_be_one_of(base, names, "the embedded cards: ")])
        parent = _read(EMBEDDED_CARDS / f"{base}.yaml")
        # A card of another name brings its own files; one that keeps the name keeps the folder.
        name = raw.get("name", parent["name"])
        if isinstance(name, str) and "folder" not in raw and name != parent["name"]:
            parent["folder"] = name
        raw = {**parent, **raw}
    return build_card(raw, path)


def load_cards(extra_dirs: Sequence[Path | str] = ()) -> dict[str, TaskCard]:
    """All cards by name: the embedded ones, then `*.yaml` of each directory in turn, later ones overriding.

    Raises one `CardError` for all the cards that are wrong.
    """
    cards: dict[str, TaskCard] = {}
    problems: list[str] = []
    for directory in (EMBEDDED_CARDS, *map(Path, extra_dirs)):
        if not directory.is_dir():
            problems.append(f"{directory}: this directory of cards does not exist")
            continue
        here: dict[str, Path] = {}
        for path in sorted((*directory.glob("*.yaml"), *directory.glob("*.yml"))):
            try:
                card = load_card(path)
            except CardError as error:
                problems += [f"{path}: {problem}" for problem in error.problems]
                continue
            if card.name in here:
                problems.append(f"{path}: duplicate name '{card.name}' (first in {here[card.name].name}); rename one")
            here[card.name] = path
            cards[card.name] = card
    if problems:
        raise CardError("task cards", problems)
    return cards


def _read(path: Path) -> dict[str, Any]:
    """The card's mapping, as written. Raises `CardError` for a file that is no YAML mapping or repeats a key."""
    try:
        return read_mapping(path, shipped=path.parent == EMBEDDED_CARDS)
    except UnreadableFile as error:
        raise CardError(path, error.lines("name a YAML file of UTF-8")) from None
