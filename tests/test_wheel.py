"""The wheel holds what a run needs, and the lock holds what the wheel needs."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from zipfile import ZipFile

import pytest
from packaging.requirements import Requirement

from tools import lock

pytestmark = pytest.mark.slow

BUILT_FROM = ("setup.py", "pyproject.toml", "requirements.txt", "README.md", "LICENSE", "train.py")
FOLDERS = ("engine", "strict_yaml", "prompt_modules", "backbones", "clinical_tasks", "ds_configs", "configs")
LEFT_OUT = shutil.ignore_patterns("__pycache__", "*.egg-info", "*.safetensors")
PACKAGES = ("engine", "strict_yaml", "prompt_modules", "backbones", "clinical_tasks")


@pytest.fixture(scope="module")
def wheel(project: Path, tmp_path_factory: pytest.TempPathFactory) -> ZipFile:
    """Built from a copy, since setuptools writes beside the sources; asks no registry."""
    copy, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for name in BUILT_FROM:
        shutil.copy(project / name, copy)
    for name in FOLDERS:
        shutil.copytree(project / name, copy / name, ignore=LEFT_OUT)
    offline = ("--no-index", "--no-deps", "--no-build-isolation", "--disable-pip-version-check")
    command = [sys.executable, "-m", "pip", "wheel", "-q", *offline, "-w", str(out), str(copy)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    (file,) = out.iterdir()
    return ZipFile(file)


@pytest.mark.parametrize("pattern", ["*.py", "*.pyi", "py.typed"])
def test_all_code_of_the_packages_is_in_it(project: Path, wheel: ZipFile, pattern: str) -> None:
    wanted = {str(file.relative_to(project)) for name in PACKAGES for file in (project / name).rglob(pattern)}
    assert wanted and wanted <= set(wheel.namelist())


@pytest.mark.parametrize(
    "folder, inside",
    [
        ("ds_configs", "engine/ds_configs"),
        ("configs/machines", "engine/machines"),
        ("clinical_tasks/cards", "clinical_tasks/cards"),
        ("clinical_tasks/pocket/cards", "clinical_tasks/pocket/cards"),
        ("engine/reporting/templates", "engine/reporting/templates"),
    ],
)
def test_all_data_files_are_in_it(project: Path, wheel: ZipFile, folder: str, inside: str) -> None:
    files = sorted(file for file in (project / folder).iterdir() if file.is_file())
    assert files
    for file in files:
        assert wheel.read(f"{inside}/{file.name}") == file.read_bytes()


def test_nothing_else_is_in_it(wheel: ZipFile) -> None:
    tops = {name.split("/")[0] for name in wheel.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {*PACKAGES, "train.py"}


def test_it_requires_what_requirements_txt_pins(project: Path, wheel: ZipFile) -> None:
    (metadata,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    lines = wheel.read(metadata).decode().splitlines()
    required = {str(Requirement(line.split(": ")[1])) for line in lines if line.startswith("Requires-Dist: ")}
    pins = (project / "requirements.txt").read_text().splitlines()
    assert required == {line for line in pins if line and not line.startswith("#")}


@pytest.fixture(scope="module")
def installed(wheel: ZipFile, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """``installed("-c", script)``: what Python prints far from the clone, with the unpacked wheel on its path."""
    site, away = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("away")
    wheel.extractall(site)

    def run(*arguments: str) -> str:
        free = ("TORCH_EXTENSIONS_DIR", "TRITON_CACHE_DIR", "XDG_CACHE_HOME")
        env = {k: v for k, v in os.environ.items() if k not in free} | {"PYTHONPATH": str(site), "HOME": str(away)}
        done = subprocess.run([sys.executable, *arguments], cwd=away, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_an_installation_finds_its_files_and_caches_for_its_user(installed: Callable[..., str]) -> None:
    script = (
        "import os; from train import protect; protect()\n"
        "from engine.core import source_commit, source_tree\n"
        "from engine.distributed import DS_CONFIGS, read_kind\n"
        "assert source_tree() is None and source_commit() is None\n"
        "assert read_kind('h100').matches and (DS_CONFIGS / 'zero3.json').is_file()\n"
        "print(os.environ['TORCH_EXTENSIONS_DIR'], os.path.expanduser('~'))\n"
    )
    cache, home = installed("-c", script).split()
    assert cache == f"{home}/.cache/clinical-metaprompt/torch_extensions"


def test_an_installation_lists_its_task_cards(project: Path, installed: Callable[..., str]) -> None:
    listed = installed("-m", "train", "tasks", "list")
    for card in (project / "clinical_tasks/cards").glob("*.yaml"):
        assert card.stem in listed


def test_requirements_and_lock_agree(project: Path) -> None:
    assert not list(lock.against_requirements(lock.locked(project), lock.requirements(project)))


def test_the_lock_names_no_build_and_no_place(project: Path) -> None:
    for name, version in lock.locked(project).items():
        assert name and version.replace(".", "").isalnum(), (name, version)


@pytest.mark.parametrize(
    "locked, here, told",
    [
        ({"a": "1.0"}, {"a": "1.0"}, []),
        ({"a": "2.0"}, {"a": "2.0"}, ["a==1.0 is required and 2.0 is locked: make lock"]),
        ({}, {}, ["a==1.0 is required and not locked: make lock"]),
        ({"a": "1.0"}, {"a": "1.1"}, ["a 1.1 is installed and 1.0 is locked: make setup"]),
        ({"a": "1.0"}, {"a": "1.0", "b": "3"}, ["b 3 is installed and not locked: make lock"]),
        ({"a": "1.0", "b": "3"}, {"a": "1.0"}, ["b is locked, and nothing requires it: make lock"]),
    ],
)
def test_disagreements_are_told_with_their_fix(locked: dict[str, str], here: dict[str, str], told: list[str]) -> None:
    assert [
        *lock.against_requirements(locked, [Requirement("a==1.0")]),
        *lock.against_environment(locked, here),
    ] == told
