"""Which releases of the libraries are refused, which are told of, and that requirements files agree with it."""

import importlib.metadata
import re
from pathlib import Path

import pytest

from engine.config.schema import RunConfig
from engine.distributed.preflight import OLDEST, TESTED, older_than_tested, preflight_problems


def test_releases_with_known_faults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = RunConfig(run_dir=str(tmp_path))
    config.data.cache = str(tmp_path)
    versions = {"deepspeed": "0.19.3", "transformers": "5.23.0", "torch": "2.13.0+cpu"}
    monkeypatch.setattr(importlib.metadata, "version", versions.__getitem__)
    (problem,) = preflight_problems(config, 0)
    assert (
        problem.startswith("deepspeed 0.19.3: 0.19.8 or newer is needed")
        and "pip install -r requirements.txt" in problem
    )


def test_releases_that_a_gpu_machine_has_are_supported_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, project: Path
) -> None:
    config = RunConfig(run_dir=str(tmp_path))
    config.data.cache = str(tmp_path)
    versions = {"deepspeed": "0.19.8", "transformers": "5.17.0", "torch": "2.11.0+cu130"}
    monkeypatch.setattr(importlib.metadata, "version", versions.__getitem__)
    assert preflight_problems(config, 0) == []
    assert older_than_tested() == [
        "WARNING transformers 5.17.0 is supported; the tests run on 5.23.0",
        "WARNING torch 2.11.0+cu130 is supported; the tests run on 2.13.0",
    ]
    versions.update(transformers="5.16.9", torch="2.10.1")
    assert [problem.partition(": ")[0] for problem in preflight_problems(config, 0)] == [
        "transformers 5.16.9",
        "torch 2.10.1",
    ]
    versions.update(transformers="6.0.0", torch="2.14.1")
    assert preflight_problems(config, 0) == older_than_tested() == []
    pins = dict(
        re.findall(r"^(deepspeed|transformers|torch)==([\d.]+)$", (project / "requirements.txt").read_text(), re.M)
    )
    assert pins == {name: ".".join(map(str, numbers)) for name, numbers in TESTED.items()}


def test_the_oldest_releases_are_those_that_test_floor_installs(project: Path) -> None:
    pins = {}
    for name in ("requirements.txt", "requirements-dev.txt", "requirements-floor.txt"):
        pins[name] = dict(re.findall(r"^([\w-]+)==([\d.]+)", (project / name).read_text(), re.M))
    floor = pins["requirements-floor.txt"]
    oldest = {name: ".".join(map(str, numbers)) for name, (numbers, _) in OLDEST.items()}
    assert {name: floor[name] for name in oldest} == oldest
    usual = pins["requirements.txt"] | pins["requirements-dev.txt"]
    assert {name for name, version in floor.items() if usual[name] != version} == {"torch", "transformers", "triton"}
    assert pins["requirements.txt"].keys() <= floor.keys()
