"""From a card and a data root to the files of a split, none of which is read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from clinical_tasks.readers import find_files
from clinical_tasks.schema import TaskCard


@dataclass(frozen=True)
class SplitFiles:
    """The files of a split: those found, and the release names (or globs) that match nothing."""

    found: tuple[Path, ...]
    missing: tuple[str, ...]


def split_files(card: TaskCard, data_root: Path | str, split: str) -> SplitFiles:
    """Resolve a split's file names and globs under `data_root/<folder>`, id files included."""
    folder = Path(data_root) / card.folder
    spec = card.splits[card.splits[split].hold_out_from or split]
    found: dict[Path, None] = {}
    missing = []
    for name in spec.files:
        matches = find_files(folder, name)
        found.update(dict.fromkeys(matches))
        if not matches:
            missing.append(name)
    missing += [name for name in (spec.ids_from, spec.ids_not_in) if name and not find_files(folder, name)]
    return SplitFiles(tuple(found), tuple(missing))
