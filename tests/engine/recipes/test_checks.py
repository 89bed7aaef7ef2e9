"""What the checks before torch accept: what a run does not read is not asked for."""

import json
from pathlib import Path
from typing import Any

import pytest

from clinical_tasks.pocket import write_pocket_corpus
from engine.checkpoints import identity_of
from engine.config import RunConfig, compared, resolve, to_yaml
from engine.recipes.checks import benchmark_problems, distillation_problems
from engine.recipes.checks.configuration import Corpora, machine_problems
from engine.recipes.checks.protocol import study_problems
from engine.recipes.protocols import Cell, read_study
from engine.recipes.study import needed_cells

STUDY = "configs/pocket/study.yaml"


def config_of(project: Path, **overrides: str) -> RunConfig:
    return resolve(project / "configs/demo/distill.yaml", overrides)


@pytest.fixture
def here(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(project)
    return project


def test_a_finished_run_needs_no_corpus_any_more(here: Path, tmp_path: Path) -> None:
    flags = {"run_dir": str(tmp_path / "run"), "data.root": str(tmp_path / "gone")}
    problems = distillation_problems(config_of(here, **flags))
    assert len(problems) == 1 and problems[0].startswith("data.root: ")
    checkpoint = tmp_path / "run/checkpoints/step_00000001"
    checkpoint.mkdir(parents=True)
    (checkpoint / "state.json").write_text(json.dumps({"stage": "distill", "step": 1, "rows": []}))
    (tmp_path / "run/latest").symlink_to("checkpoints/step_00000001")
    (tmp_path / "run/config.yaml").write_text("")
    (tmp_path / "run/COMPLETED").touch()
    assert distillation_problems(config_of(here, **flags)) == []
    assert len(distillation_problems(config_of(here, **flags, overwrite="true"))) == 1


def test_teachers_are_asked_for_only_where_a_loss_reads_them(here: Path, tmp_path: Path) -> None:
    flags = {"run_dir": str(tmp_path / "run"), "teach.run": str(tmp_path / "nowhere")}
    (problem,) = distillation_problems(config_of(here, **flags))
    assert "holds no finished teachers" in problem
    losses = {"distill.lambda_kl": "0", "distill.lambda_hidden": "0"}
    assert distillation_problems(config_of(here, **flags, **losses)) == []


def test_a_folder_that_a_mode_does_not_write_is_not_expanded(here: Path, tmp_path: Path) -> None:
    config = config_of(here, run_dir=str(tmp_path / "run"), **{"data.cache": "$NOT_SET/cache"})
    assert machine_problems(config, ()) == []
    assert machine_problems(config) == ["data.cache: $NOT_SET/cache: an environment variable in it is not set"]


def test_a_missing_data_root_is_told_once(here: Path, tmp_path: Path) -> None:
    (problem,) = distillation_problems(config_of(here, run_dir=str(tmp_path / "run"), **{"data.root": ""}))
    assert problem.startswith("data.root: missing")


def test_a_benchmark_on_invented_rows_reads_no_card(here: Path, tmp_path: Path) -> None:
    config = config_of(here, run_dir=str(tmp_path / "run"), **{"data.cards": str(tmp_path / "none"), "data.root": ""})
    assert benchmark_problems(config, "distill", invented=True) == []
    problems = benchmark_problems(config, "distill", invented=False)
    assert [problem.split(":")[0] for problem in problems] == ["data.root", "data.cards"]


def test_a_study_looks_for_each_file_once(here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from engine.recipes.checks import configuration

    real, seen = configuration.split_files, []

    def counted(card, root, split):
        seen.append((card.name, root, split))
        return real(card, root, split)

    monkeypatch.setattr(configuration, "split_files", counted)
    assert study_problems(STUDY, [], study_flags(tmp_path)) == []
    assert seen and len(seen) == len(set(seen))
    assert Corpora().cards(config_of(here).data)


def study_flags(tmp_path: Path) -> dict[str, str]:
    """A study's flags on a corpus that is written for it."""
    write_pocket_corpus(tmp_path / "data", sizes={"train": 1, "validation": 1, "test": 1})
    data = {"data.root": str(tmp_path / "data"), "data.cards": str(tmp_path / "data/cards")}
    return {"run_dir": str(tmp_path / "run"), "data.decontaminate_against": "", **data}


def test_a_study_asks_for_the_split_that_its_adaptations_are_evaluated_on(here: Path, tmp_path: Path) -> None:
    flags = study_flags(tmp_path)
    (tmp_path / "data/pocket_scinli/test.jsonl").unlink()
    (problem,) = study_problems(STUDY, [], flags)
    assert problem.startswith("task pocket_scinli, split test: not found in")
    assert study_problems(STUDY, [], {**flags, "evaluate.split": "validation"}) == []
    (tmp_path / "data/pocket_scinli/dev.jsonl").unlink()
    problems = study_problems(STUDY, [], {**flags, "evaluate.split": "validation"})
    assert problems and all("split validation: not found in" in problem for problem in problems)


def test_a_finished_cell_without_scores_is_evaluated_and_so_checked(here: Path, tmp_path: Path) -> None:
    flags = study_flags(tmp_path)
    _, cells = read_study(STUDY, flags)
    name = next(cell.protocol for cell in cells if cell.mode == "adapt")
    for cell in needed_cells(cells, [name]):
        finish(cell)
    assert study_problems(STUDY, [name], flags) == []
    (tmp_path / "data/pocket_scinli/test.jsonl").unlink()
    (problem,) = study_problems(STUDY, [name], flags)
    assert problem.startswith("task pocket_scinli, split test: not found in")
    for cell in needed_cells(cells, [name]):
        content: dict[str, Any] = {
            "checkpoint": identity_of(cell.run_dir),
            "tasks": dict.fromkeys(cell.config.adapt.targets, {}),
        }
        (cell.run_dir / "results.json").write_text(json.dumps(content))
    assert study_problems(STUDY, [name], flags) == []
    # a changed setting is told now, not when the study comes to the cell
    problems = study_problems(STUDY, [name], {**flags, "data.max_length": "17"})
    assert problems and all("data.max_length" in problem for problem in problems)


def finish(cell: Cell) -> None:
    """The text files of a cell that was trained."""
    checkpoint = cell.run_dir / "checkpoints/step_00000001"
    checkpoint.mkdir(parents=True)
    config = compared(cell.config, ["data", "prompt", cell.mode])
    state = {"stage": cell.mode, "step": 1, "rows": [], "hashes": {"config": config}}
    state |= {"sha256": {"prompts.safetensors": "0"}, "reused": {}}
    (checkpoint / "state.json").write_text(json.dumps(state))
    (cell.run_dir / "latest").symlink_to("checkpoints/step_00000001")
    (cell.run_dir / "config.yaml").write_text(to_yaml(cell.config))
    (cell.run_dir / "COMPLETED").touch()


def test_a_name_that_no_protocol_has_asks_for_no_cell(here: Path, tmp_path: Path) -> None:
    flags = {"run_dir": str(tmp_path / "run"), "data.root": str(tmp_path / "gone")}
    (problem,) = study_problems(STUDY, ["few_shots"], flags)
    assert problem.startswith("--only: must be one of ") and "; got 'few_shots'" in problem
