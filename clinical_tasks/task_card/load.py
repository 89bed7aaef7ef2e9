"""Finding and loading task cards: those embedded in the package, and the user's, which override by name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clinical_tasks.schema import CardError, TaskCard, did_you_mean
from clinical_tasks.task_card.validate import build_card
from strict_yaml import FileProblem, UnreadableFile, read_mapping

EMBEDDED_CARDS = Path(__file__).parents[1] / "cards"


def load_card(path: Path | str) -> TaskCard:
    """Load and check one card. Raises `CardError` with everything that is wrong with it.

    `extends: NAME` starts from an embedded card; each top-level key that is given replaces that card's.
    """
    path = Path(path)
    raw = _read(path)
    base = raw.pop("extends", None)
    if base is not None:
        names = sorted(file.stem for file in EMBEDDED_CARDS.glob("*.yaml"))
        if base not in names:
            problem = (
                f"extends: no embedded card '{base}'{did_you_mean(str(base), names)}; embedded are {', '.join(names)}"
            )
            raise CardError(path, [problem])
        parent = _read(EMBEDDED_CARDS / f"{base}.yaml")
        # A card of another name brings its own files; one that keeps the name keeps the folder.
        if "name" in raw and "folder" not in raw and raw["name"] != parent["name"]:
            parent["folder"] = raw["name"]
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
            problems.append(f"{directory}: no such directory of cards")
            continue
        here: dict[str, Path] = {}
        for path in sorted((*directory.glob("*.yaml"), *directory.glob("*.yml"))):
            try:
                card = load_card(path)
            except CardError as error:
                problems += [f"{path}: {problem}" for problem in error.problems]
                continue
            if card.name in here:
                problems.append(f"{path}: name '{card.name}' is also that of {here[card.name].name}; rename one")
            here[card.name] = path
            cards[card.name] = card
    if problems:
        raise CardError("task cards", problems)
    return cards


def _read(path: Path) -> dict[str, Any]:
    """The card's mapping, as written. Raises `CardError` for a file that is no YAML mapping or repeats a key."""
    try:
        return read_mapping(path)
    except UnreadableFile as error:
        raise CardError(path, [_told(problem) for problem in error.problems]) from None


def _told(problem: FileProblem) -> str:
    place = f"line {problem.line}: " if problem.line else ""
    match problem.kind:
        case "absent":
            return f"cannot be opened ({problem.text}); check the path"
        case "encoding":
            return f"{problem.text.removeprefix('no text file: ')}; convert the file"
        case "repeated":
            return f"{place}key '{problem.key}' is given twice; keep one"
        case "content":
            return "not a mapping of keys; see docs/data.md for a card to start from"
    return f"{place}not YAML ({problem.text}); check indentation, quotes and control characters"
