"""A plan's subject: Llama 8B by its shape, without corpora."""

from pathlib import Path

import pytest

from engine.config import RunConfig
from engine.config.loader import resolve
from engine.training.context import RunContext


@pytest.fixture(scope="module")
def llama(project: Path) -> RunConfig:
    flags = {"backbone": str(project / "configs/llama31_8b/shape.yaml"), "data.root": "", "distill.steps": "50"}
    return resolve(str(project / "configs/llama31_8b/distill.yaml"), flags)


@pytest.fixture(scope="module")
def run_context(llama: RunConfig) -> RunContext:
    return RunContext(llama)
