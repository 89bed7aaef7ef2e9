"""Where data files lie that no package holds: at the top of a clone, inside ``engine`` in an installation.

``ds_configs/`` and ``configs/machines/`` stand at the top of a clone, where users look for them. setup.py puts them
below ``engine`` in a wheel: installed under their own names, they would share ``configs`` with every other program.
"""

from pathlib import Path

ENGINE = Path(__file__).resolve().parents[1]
# folder below `engine` in a wheel (see setup.py) -> folder of a clone
FOLDERS = {"ds_configs": "ds_configs", "machines": "configs/machines"}


def resource_folder(name: str) -> Path:
    """The folder of a clone or of an installation. name: one of FOLDERS."""
    tree = source_tree()
    return ENGINE / name if tree is None else tree / FOLDERS[name]


def source_tree() -> Path | None:
    """The clone that this code runs from, editable installations included; None in any other installation."""
    return None if (ENGINE / "ds_configs").is_dir() else ENGINE.parent
