"""What a report tells of device hours: of a run, of each run of a study, and of the distillations before them."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from engine.reporting.costs import Distillation, cost_words
from engine.reporting.data import gather
from engine.reporting.report import write_report
from tests.engine.reported_demo import demo_results, write_demo
from tests.engine.reported_run import write_run


def spent(seconds: float) -> list[dict[str, float]]:
    """The logged steps of a stage."""
    return [{"step": 1, "device_seconds": seconds}]


def test_the_cost_names_the_run_that_the_metaprompt_came_from_and_the_search_for_rates(tmp_path: Path) -> None:
    _, adapted = gather(write_demo(tmp_path))
    curves = {"": spent(3600.0), "lr_sweep": spent(7200.0)}
    run = replace(adapted, curves=curves, source=tmp_path / "a/distill")
    mine = Distillation(tmp_path / "a/distill", "runs/a/distill", {"": spent(18000.0)})
    baseline = Distillation(tmp_path / "b/distill", "runs/b/distill", {"": spent(36000.0)})  # of the same last name
    words = " ".join(cost_words(run, [baseline, mine]))
    assert "together took 1 device-hour. Choosing learning rates took 2 more." in words
    assert words.count("made once before") == 1
    assert "for all tasks, in runs/a/distill: distillation 5 device-hours." in words
    assert "made once before" not in " ".join(cost_words(run, [baseline]))


def test_the_source_of_a_run_is_found_by_its_whole_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = write_run(tmp_path / "run")
    for written in ("runs/a/distill", str(tmp_path / "runs/b/../a/distill")):
        (folder / "config.yaml").write_text(f"adapt: {{source_run: {written}}}")
        (run,) = gather([folder])
        assert run.source == tmp_path / "runs/a/distill"
    for nothing in ("adapt: {}", "adapt:", "adapt: {source_run: $NOT_SET_HERE/x}"):
        (folder / "config.yaml").write_text(nothing)
        assert gather([folder])[0].source is None


def write_study(home: Path, *distilled: str) -> str:
    """The report of a study of two adaptations; the distillations before them were not evaluated."""
    folders = []
    for name in ("factors", "all"):
        folders.append(write_run(home / name, demo_results("target")))
        (folders[-1] / "metrics.jsonl").write_text(json.dumps(spent(7200.0)[0]))
        (folders[-1] / "config.yaml").write_text(f"adapt: {{source_run: {home / distilled[-1]}}}")
    for number, name in enumerate(distilled):
        (home / name / "teachers").mkdir(parents=True)
        (home / name / "metrics.jsonl").write_text(json.dumps(spent(3600.0)[0]))
        if number == 0:
            (home / name / "teachers/metrics.jsonl").write_text(json.dumps(spent(360000.0)[0]))
        else:
            (home / name / "config.yaml").write_text(f"teach: {{run: {home / distilled[0]}}}")
    made = {home / name: f"runs/{name}" for name in distilled}
    return write_report(folders, home / "out", ["runs/unseen/factors", "runs/unseen/all"], distillations=made)


def test_a_study_tells_what_its_distillation_and_each_run_cost(tmp_path: Path) -> None:
    text = write_study(tmp_path, "metaprompt")
    assert text.count("Cost of the distillation ") == 1 and "made once before" not in text
    assert "Cost of the distillation runs/metaprompt, made once: teachers 100 and distillation 1 device-hour." in text
    (head,) = re.findall(r"^\| run +\| examples .*", text, re.MULTILINE)
    (row,) = re.findall(r"^\| factors .*", text, re.MULTILINE)
    heads, cells = ([cell.strip() for cell in line.split("|")] for line in (head, row))
    assert cells[heads.index("device-hours")] == "2"


def test_many_distillations_of_a_study_are_a_folded_table(tmp_path: Path) -> None:
    text = write_study(tmp_path, "metaprompt", "rank=1", "rank=2")
    first, _, folded = text.partition("## At length")
    assert "3 distillations before these runs took 103 device-hours together." in first
    table = folded[folded.index("### Device-hours of every distillation") :]
    assert [len(re.findall(f"{name} +\\|", table)) for name in ("rank=1", "rank=2")] == [1, 1]
    assert re.search(r"rank=2 +\| +\| 1 +\| 1 +\| runs/metaprompt \|", table)
    # each run names its own
    assert first.count("rank=2: distillation 1 device-hour; its teachers are those of") == 2


def test_without_a_record_there_is_no_column_of_device_hours(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / name, demo_results("target")) for name in ("factors", "all")]
    text = write_report(folders, tmp_path / "out", ["runs/unseen/factors", "runs/unseen/all"])
    (head,) = re.findall(r"^\| run +\| examples .*", text, re.MULTILINE)
    assert "device-hours" not in head
