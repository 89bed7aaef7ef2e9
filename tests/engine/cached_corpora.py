"""Token rows of the demo corpora in a cache: what several files of tests begin with."""

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from backbones import BackboneCard, Layout, load_tokenizer
from engine.config.schema import DataConfig
from engine.core.errors import UserError
from engine.data.cache_keys import cache_key
from engine.data.dataset import TaskData, load_cards, prepare
from engine.data.file_digests import FileDigests

Prepare = Callable[..., dict[str, TaskData]]


ALL = {"demo_qa": ["train", "validation", "test"], "demo_entities": ["train"]}


@pytest.fixture
def corpora(project: Path, tmp_path: Path) -> Path:
    """A copy of the demo corpora, to be changed."""
    return Path(shutil.copytree(project / "configs/demo/data", tmp_path / "corpora"))


@pytest.fixture
def config(project: Path, corpora: Path, tmp_path: Path) -> DataConfig:
    return DataConfig(
        root=str(corpora),
        cards=[str(project / "configs/demo/cards")],
        cache=str(tmp_path / "private/cache"),
        max_length=768,
    )


@pytest.fixture(scope="module")
def layout(card: BackboneCard) -> Layout:
    return Layout(card, load_tokenizer(card.tokenizer))


@pytest.fixture
def run(config: DataConfig, layout: Layout) -> Prepare:
    """``run({"demo_qa": ["train"]}, max_length=100)``: prepare, with some keys of the configuration replaced; what
    was said is in ``run.said``.
    """

    def prepared(tasks: dict[str, list[str]], rank: int = 0, **changes: Any) -> dict[str, TaskData]:
        return prepare(
            tasks, config=dataclasses.replace(config, **changes), layout=layout, rank=rank, print_rank0=said.append
        )

    said: list[str] = []
    prepared.said = said  # type: ignore[attr-defined]
    return prepared


def problems(run: Prepare, tasks: dict[str, list[str]], **changes: Any) -> list[str]:
    with pytest.raises(UserError) as error:
        run(tasks, **changes)
    return error.value.problems


def key(
    config: DataConfig,
    layout: Layout,
    task: str = "demo_qa",
    split: str = "train",
    max_length: int = 768,
    limit: int = 0,
    **card: Any,
) -> str:
    found = load_cards(config)[task]
    digests = FileDigests(Path(config.cache))
    return cache_key(
        dataclasses.replace(found, **card),
        split,
        root=Path(config.root),
        layout=layout,
        max_length=max_length,
        limit=limit,
        digests=digests,
    )


def folders(config: DataConfig) -> list[Path]:
    return [path for path in Path(config.cache).iterdir() if path.is_dir()]


def rows_of(found: dict[str, TaskData]) -> list[Any]:
    return [list(rows.rows) for task in found.values() for rows in task.splits.values()]
