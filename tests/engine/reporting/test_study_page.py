"""The page of a study: runs that differ in one setting stand together, and parts of the method in a table by cell."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from engine.evaluation.aggregate import average
from engine.reporting import study_page
from tests.engine.reported_demo import demo_results
from tests.engine.reported_run import write_run


def write_cell(study: Path, name: str, methods: tuple[str, ...], **adapt: Any) -> None:
    found = demo_results("target")
    for task in found["tasks"].values():
        task["methods"] = {method: task["methods"][method] for method in methods}
    found["average"] = average(found["tasks"])
    found["trainable"]["methods"] = {m: t for m, t in found["trainable"]["methods"].items() if m in methods}
    write_run(study / name, found)
    (study / name / "config.yaml").write_text(yaml.safe_dump({"adapt": adapt}))


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A study's page, written by its command."""
    study, output = tmp_path / "study", tmp_path / "docs/results.md"
    write_cell(study, "curve", ("metaprompt", "prompt_tuning", "instruction"), train="factors", steps=9)
    write_cell(study, "whole", ("metaprompt",), train="all", steps=9)
    write_cell(study, "longer", ("metaprompt",), train="all", steps=99)
    cells = [{"mode": "adapt", "run": name} for name in ("curve", "whole", "longer", "not_evaluated")]
    (study / "study.json").write_text(json.dumps({"cells": cells}))
    monkeypatch.setattr(study_page, "protect", lambda: None)
    monkeypatch.setattr("sys.argv", ["study_page", f"--study={study}", f"--output={output}"])
    study_page.main()
    return output.read_text()


def first_cells(page: str, head: str) -> list[str]:
    """The first column of the table that begins so."""
    table = next(block for block in page.split("\n\n") if block.startswith(f"| {head} "))
    return [line.split("|")[1].strip() for line in table.splitlines()[2:]]


def test_only_a_run_under_the_same_conditions_stands_beside_a_curve(page: str) -> None:
    assert first_cells(page, "run") == ["curve", "whole"]
    assert "did not measure the other setting" not in page


def test_every_run_without_a_curve_is_in_the_table_of_parts(page: str) -> None:
    assert first_cells(page, "cell") == ["whole", "longer"]
