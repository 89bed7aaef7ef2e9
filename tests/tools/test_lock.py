"""The lock names what the requirements need here, and where it disagrees the fix is told."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from packaging.requirements import Requirement

from tools import lock

PACKAGES = {
    "app": ("1.0", ["Inner_Part>=2", 'old; python_version < "3"', 'more; extra == "all"', "nvidia-cublas"]),
    "inner-part": ("2.1+cpu", None),
    "more": ("3.0", ["app"]),
    "setuptools": ("80.0", None),
    "wheel": ("0.45", None),
}


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def distribution(name: str) -> SimpleNamespace:
        if name not in PACKAGES:
            raise lock.PackageNotFoundError(name)
        version, requires = PACKAGES[name]
        return SimpleNamespace(version=version, requires=requires)

    monkeypatch.setattr(lock, "distribution", distribution)
    monkeypatch.chdir(tmp_path)
    Path("requirements.txt").write_text("app >= 1  # the application\n")
    Path("requirements-dev.txt").write_text("-r requirements.txt\n\n")


def test_what_is_needed_here_is_found_without_local_versions_and_cuda() -> None:
    assert lock.installed([Requirement("app")]) == {"app": "1.0", "inner-part": "2.1"}
    assert lock.installed([Requirement("App[all]")]) == {"app": "1.0", "inner-part": "2.1", "more": "3.0"}
    assert lock.installed([Requirement('absent; python_version < "3"')]) == {}


def test_a_lock_that_is_written_agrees() -> None:
    assert lock.main([]) == 0
    written = Path(lock.LOCK).read_text()
    assert written == lock.HEAD + "app==1.0\ninner-part==2.1\nsetuptools==80.0\nwheel==0.45\n"
    assert lock.main(["--check"]) == 0


def test_each_disagreement_is_told_with_its_fix(capsys: pytest.CaptureFixture[str]) -> None:
    Path("requirements.txt").write_text("app >= 1\nmore < 3\n")
    Path(lock.LOCK).write_text("inner-part==2.0\nmore==3.0\nsetuptools==80.0\nunused==1\nwheel==0.45\n")
    assert lock.main(["--check"]) == 1
    assert capsys.readouterr().err.splitlines() == [
        "error: constraints.txt: app 1.0 is installed and not locked: make lock",
        "error: constraints.txt: app>=1 is required and not locked: make lock",
        "error: constraints.txt: inner-part 2.1 is installed and 2.0 is locked: make setup",
        "error: constraints.txt: more<3 is required and 3.0 is locked: make lock",
        "error: constraints.txt: unused is locked, and nothing requires it: make lock",
    ]


def test_a_missing_package_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    Path("requirements.txt").write_text("absent\n")
    assert (lock.main(["--check"]), lock.main([])) == (1, 1)
    assert capsys.readouterr().err.splitlines() == [
        "error: absent is not installed: make setup",
        "error: absent is not installed: make lock",
    ]
