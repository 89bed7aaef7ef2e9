"""The shape of the code, as figures: readable density, folders and packages of a size, imports through faces."""

from pathlib import Path

import pytest

from tools.structure import PACKAGES, measure


@pytest.fixture(scope="module")
def found():
    return measure()


def test_nested_expressions_are_few(found) -> None:
    assert found.comprehensions <= 40 and found.ternaries <= 15


def test_no_line_is_wide(found) -> None:
    assert found.wide_lines == 0


def test_folders_and_packages_stay_small(found) -> None:
    assert found.largest_folder[1] <= 16, found.largest_folder
    assert found.largest_package[1] <= 0.25, found.largest_package


def test_packages_import_from_faces_only(found) -> None:
    assert found.past_faces == []


def test_few_modules_know_the_run_context(found) -> None:
    assert len(found.run_context_importers) <= 8, found.run_context_importers


def test_an_import_past_a_face_is_seen(tmp_path: Path) -> None:
    for package in PACKAGES:
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text("")
    core, data = tmp_path / "engine/core", tmp_path / "engine/data"
    for folder in (core, data):
        folder.mkdir()
    (core / "__init__.py").write_text('from engine.core.errors import UserError\n\n__all__ = ["UserError"]\n')
    (core / "errors.py").write_text("class UserError(Exception): ...\n")
    (data / "__init__.py").write_text("")
    (data / "rows.py").write_text(
        "from engine.core import UserError\n"
        "from engine.core.errors import UserError as Again\n"
        "from engine.core import errors\n"
        "from engine.data import sampling\n"
    )
    (data / "sampling.py").write_text("A = [i for i in (1, 2)]\nB = 1 if A else 2\n")
    seen = measure(tmp_path)
    assert seen.past_faces == [
        "engine/data/rows.py: engine.core.errors",
        "engine/data/rows.py: engine.core.errors.UserError",
    ]
    assert (seen.comprehensions, seen.ternaries) == (pytest.approx(1000 / seen.lines), pytest.approx(1000 / seen.lines))


def test_tests_mirror_the_packages() -> None:
    root = Path(__file__).parent
    for package in ("engine", "clinical_tasks", "backbones"):
        rooms = {p.name for p in (root.parent / package).iterdir() if (p / "__init__.py").is_file()}
        mirrored = {p.name for p in (root / package).iterdir() if p.is_dir() and p.name != "__pycache__"}
        assert mirrored <= rooms, mirrored - rooms
