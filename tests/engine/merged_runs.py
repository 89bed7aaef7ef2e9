"""Finished adaptations for the tests of merging: fixtures, and what they hold."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from engine.checkpoints.bank_io import load_bank
from engine.config.loader import to_yaml
from engine.data.dataset import TaskData
from engine.training.adapt import Source, adapt_stage
from engine.training.run_directory import complete_run_dir
from prompt_modules import DecomposedBank
from prompt_modules.bank import JoinedBank

Row = tuple[str, str, str, int]


@pytest.fixture
def source() -> JoinedBank:
    """A metaprompt and three tasks' factors, far from their start."""
    g = torch.Generator().manual_seed(2)
    part = DecomposedBank(
        *(0.3 * torch.randn(*shape, generator=g, dtype=torch.float64) for shape in ((1, 5, 64), (3, 5, 2), (3, 2, 64)))
    )
    return JoinedBank({"metaprompt": part}, {"metaprompt": 3}).requires_grad_(False)


@pytest.fixture
def adapted(make_holder, make_loop, tasks: dict[str, TaskData], source: JoinedBank) -> Callable[..., Path]:
    """``adapted("a", **{"adapt.targets": ["alpha"]})``: a finished adaptation."""

    def run(name: str, source_hash: str = "of the source", rates: Any = None, **changes: Any) -> Path:
        holder = make_holder(name, **{"distill.sources": [], "adapt.steps": 2, **changes})
        start = Source(source.parts["metaprompt"], ["alpha", "beta", "gamma"], source_hash, 0)  # type: ignore[arg-type]
        stage = adapt_stage(holder, data=tasks, sources={"metaprompt": start, "multitask_prompt": start}, rates=rates)
        make_loop(stage, holder).run()
        (holder.context.run_dir / "config.yaml").write_text(to_yaml(holder.context.config))
        complete_run_dir(holder.context, holder.context.run_dir)
        return holder.context.run_dir

    return run


def rows_of(run: Path) -> dict[Row, Tensor]:
    """Label -> its best prompt."""
    bank, found = load_bank(run, "run")
    prompts: dict[Row, Tensor] = {}
    with torch.no_grad():
        for k, row in enumerate(found.state["rows"]):
            prompts[tuple(row.values())] = bank.prompts(torch.tensor([k]))[0]  # type: ignore[index]
    return prompts


def silent(_: str) -> None:
    pass


A = {"adapt.targets": ["alpha"], "adapt.shots": ["0", "4"], "adapt.seeds": [0, 1]}
B = {"adapt.targets": ["beta", "gamma"], "adapt.shots": ["full"]}


@pytest.fixture
def cards(monkeypatch: pytest.MonkeyPatch) -> None:
    from engine.recipes.merging import sum_rows

    monkeypatch.setattr(sum_rows, "load_cards", lambda _: {"gamma": None, "delta": None})
