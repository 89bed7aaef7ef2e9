"""What an adaptation was adapted from: noted as it is adapted, kept in merges, named in exported cards."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from engine.checkpoints import checkpoint
from engine.checkpoints.bank_io import load_bank
from engine.checkpoints.checkpoint import Checkpoint
from engine.config.loader import resolve, to_yaml
from engine.config.schema import RunConfig
from engine.recipes.exporting.export import export_run
from engine.recipes.merging.merge import merge_runs
from engine.recipes.source_terms import outside_teachers, source_record, sources_of
from engine.training.adapt import Source, adapt_stage
from engine.training.run_directory import complete_run_dir
from tests.engine.merged_runs import A, B, silent

ROOT = Path(__file__).parents[3]
TARGET = "demo_qa"  # public
CARD = """extends: brat_entities
name: {}
licence: {}
access: {}
citation: Nobody 2020
labels: {{Drug: drug}}
splits: {{train: 'a*', test: 'b*'}}
"""
AGREED, PUBLIC = "secret_notes", "open_notes"
DERIVED = f"**Derived from data under agreement** ({AGREED}): whoever gets these files needs the same agreements."


@pytest.fixture
def cards_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "cards"
    folder.mkdir()
    (folder / "secret.yaml").write_text(CARD.format(AGREED, "DUA of Somewhere", "ask the Institute"))
    (folder / "open.yaml").write_text(CARD.format(PUBLIC, "CC BY 4.0", "public"))
    return folder


def write_run(
    run_dir: Path, stage: str, tasks: list[str], *, changes: dict[str, Any], sources: Any = None, **state: Any
) -> str:
    """A finished run with a row of ``metaprompt`` for each task. -> its identity."""
    hashes = {"backbone": "b", "layout": "c", "data": "d"} | ({"sources": sources} if sources else {})
    g, k = torch.Generator().manual_seed(3), len(tasks)
    width = json.loads((ROOT / "backbones/pocket/llama/config.json").read_text())["hidden_size"]
    shapes = {"shared_SLD": (1, 5, width), "cols_KLR": (k, 5, 1), "rows_KRD": (k, 1, width)}
    tensors: dict[str, Tensor] = {}
    for name, shape in shapes.items():
        tensors[f"best.parts.metaprompt.{name}"] = torch.randn(*shape, generator=g)
    config = RunConfig(run_dir=str(run_dir), backbone=str(ROOT / "backbones/pocket/llama.yaml"))
    config.prompt.num_virtual_tokens = 5
    for key, value in changes.items():
        section, _, leaf = key.partition(".")
        setattr(getattr(config, section), leaf, value)
    run_dir.mkdir()
    rows = [{"task": task, "method": "metaprompt", "shots": "full", "seed": 0} for task in tasks]
    content = {"stage": stage, "rows": rows, "hashes": hashes, "changes": [], **state}
    checkpoint.save(run_dir, 5, Checkpoint({}, {"m": torch.zeros(1)}, content, {"best": tensors}), 1)
    (run_dir / "config.yaml").write_text(to_yaml(config))
    (run_dir / "COMPLETED").touch()
    found = checkpoint.load(run_dir)
    assert found is not None
    return found.identity


@pytest.fixture
def distilled(tmp_path: Path, cards_dir: Path) -> Callable[..., str]:
    """``distilled("source", [AGREED])``: a distillation of these tasks. -> its identity."""

    def make(name: str, tasks: list[str], **changes: Any) -> str:
        given = {"distill.sources": tasks, "data.cards": [str(cards_dir)], **changes}
        return write_run(tmp_path / name, "distill", tasks, changes=given)

    return make


@pytest.fixture
def adaptation(tmp_path: Path) -> Callable[..., Path]:
    """``adaptation(identity, **state)``: of the distillation in ``source``, whose cards it does not have."""

    def make(identity: str | None, **state: Any) -> Path:
        changes = {"adapt.source_run": str(tmp_path / "source"), "data.cards": [str(ROOT / "configs/demo/cards")]}
        sources = {"metaprompt": identity} if identity else None
        write_run(tmp_path / "adapt", "adapt", [TARGET], changes=changes, sources=sources, **state)
        return tmp_path / "adapt"

    return make


def card_of(run: Path, name: str = "out") -> str:
    folders = export_run(run, "peft", run.parent / name)
    cards = {(folder / "README.md").read_text().partition("\n## Trained on")[2] for folder in folders}
    (card,) = cards
    assert str(run.parent) not in card, "no path of the machine"
    return card


def test_the_card_names_sources_and_terms_while_the_distillation_is_there(distilled, adaptation) -> None:
    identity = distilled("source", [AGREED, PUBLIC])
    card = card_of(adaptation(identity))
    assert f"Rows of `metaprompt`, and sums of them, start from a distillation (checkpoint `{identity}`)" in card
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in card.splitlines() if line.startswith("|")]
    assert [AGREED, "DUA of Somewhere", "ask the Institute", "Nobody 2020"] in rows
    assert [PUBLIC, "CC BY 4.0", "public", "Nobody 2020"] in rows and TARGET in [row[0] for row in rows]
    assert DERIVED in card and "unknown" not in card and "not known" not in card


def test_what_was_noted_at_adaptation_outlives_the_distillation(distilled, adaptation, tmp_path: Path) -> None:
    identity = distilled("source", [AGREED])
    record = source_record(tmp_path / "source", [AGREED], {})
    shutil.rmtree(tmp_path / "source")
    shutil.rmtree(tmp_path / "cards")
    card = card_of(adaptation(identity, source_tasks={"metaprompt": record}))
    assert "DUA of Somewhere" in card and "ask the Institute" in card and DERIVED in card and "unknown" not in card


@pytest.mark.parametrize("case", ["gone", "another", "damaged", "not noted"])
def test_unknown_sources_are_said_plainly(distilled, adaptation, tmp_path: Path, case: str) -> None:
    identity: str | None = distilled("source", [AGREED])
    if case == "gone":
        shutil.rmtree(tmp_path / "source")
    elif case == "another":
        shutil.rmtree(tmp_path / "source")
        distilled("source", [PUBLIC, TARGET])
    elif case == "damaged":
        (tmp_path / "source/latest/state.json").write_text("{")
    card = card_of(adaptation(None if case == "not noted" else identity))
    assert "**Sources of `metaprompt` unknown**: its rows start from a distillation" in card
    assert "**Derived from data of unknown terms** (sources unknown): treat these files as under agreement." in card
    assert PUBLIC not in card and "Derived from data under agreement" not in card


def test_a_distillation_and_a_run_on_public_data_say_no_more_than_before(distilled, adaptation, tmp_path: Path) -> None:
    identity = distilled("source", [PUBLIC])
    for name, run in (("one", tmp_path / "source"), ("two", adaptation(identity))):
        card = card_of(run, name)
        assert "Derived" not in card and "unknown" not in card and ("start from" in card) == (name == "two")


def test_a_task_without_a_card_is_of_unknown_terms(distilled, adaptation, cards_dir: Path) -> None:
    identity = distilled("source", [AGREED, PUBLIC])
    shutil.rmtree(cards_dir)
    card = card_of(adaptation(identity))
    assert f"({AGREED}, {PUBLIC}): treat these files as under agreement." in card and card.count("not known here") == 4


def test_the_stage_writes_the_record_into_its_checkpoints_and_merges_keep_it(
    make_holder, make_loop, tasks, source, adapted, tmp_path: Path
) -> None:
    record = {"tasks": [{"task": AGREED, "licence": "L", "access": "ask", "citation": ""}], "outside_teachers": False}
    holder = make_holder("a", **{"distill.sources": [], "adapt.steps": 2, **A})
    start = Source(source.parts["metaprompt"], ["alpha", "beta", "gamma"], "of the source", 0, record)
    stage = adapt_stage(holder, tasks, {"metaprompt": start, "multitask_prompt": start})
    make_loop(stage, holder).run()
    (holder.context.run_dir / "config.yaml").write_text(to_yaml(holder.context.config))
    complete_run_dir(holder.context, holder.context.run_dir)
    found = load_bank(holder.context.run_dir, "run")[1]
    assert found.state["source_tasks"] == {"metaprompt": record}  # multitask_prompt has no row
    said: list[str] = []
    other = adapted("b", **B)  # of before sources were noted
    for number, runs in enumerate(([other, holder.context.run_dir], [holder.context.run_dir, other])):
        merge_runs(runs, tmp_path / f"out{number}", print_rank0=said.append)
        found = load_bank(tmp_path / f"out{number}", "run")[1]
        assert found.state["source_tasks"] == {"metaprompt": record}
    assert not any("source_tasks" in line for line in said)


def test_merging_looks_up_what_none_of_the_runs_has_noted(distilled, adapted, tmp_path: Path) -> None:
    identity = distilled("source", [AGREED])
    first = adapted("a", identity, **{**A, "adapt.source_run": str(tmp_path / "gone")})
    second = adapted("b", identity, **{**B, "adapt.source_run": str(tmp_path / "source")})
    merge_runs([first, second], tmp_path / "out", print_rank0=silent)
    shutil.rmtree(tmp_path / "source")
    _, found = load_bank(tmp_path / "out", "run")
    record = sources_of(found.state, resolve(tmp_path / "out/config.yaml"))["metaprompt"]
    assert record is not None and [entry["task"] for entry in record["tasks"]] == [AGREED]


def test_teachers_from_elsewhere_are_named_along_the_chain(distilled, adaptation, tmp_path: Path) -> None:
    distilled("first", [PUBLIC], **{"teach.adapters": "/somewhere"})
    identity = distilled("source", [PUBLIC], **{"teach.run": str(tmp_path / "first")})
    assert "Their teachers were adapters from elsewhere" in card_of(adaptation(identity))
    assert "Their teachers were adapters from elsewhere" in card_of(tmp_path / "first", "first_out")
    own, multitask = RunConfig(), RunConfig()
    multitask.teach.adapters, multitask.distill.lambda_kl, multitask.distill.lambda_hidden = "/somewhere", 0.0, 0.0
    own.teach.run = str(tmp_path / "gone")
    assert [outside_teachers(config) for config in (RunConfig(), multitask, own, None)] == [False, False, True, True]
