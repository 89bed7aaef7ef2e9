"""`tasks check` from the command line: one table, one JSON, all problems at once; and corpora larger than memory."""

from __future__ import annotations

import json
import stat
import tracemalloc
from pathlib import Path
from typing import Any

import datasets  # noqa: F401 - loaded before memory is counted
import pyarrow
import pytest
import yaml

import train
from backbones import BackboneCard, Layout, load_tokenizer
from clinical_tasks import check_tasks, load_card
from clinical_tasks.audit import check as task_check
from engine.config.schema import DataConfig
from engine.core.errors import UserError
from engine.data.audit import OverlapQuestion, TokenQuestion, check_data
from engine.data.dataset import prepare


def report(project: Path, output: Path, **further: Any) -> dict[str, Any]:
    check_data(
        str(project / "configs/demo/data"), cards=[str(project / "configs/demo/cards")], output=str(output), **further
    )
    content: dict[str, Any] = json.loads(output.read_text())
    return content


def test_one_json_says_what_the_table_says(project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = report(
        project,
        tmp_path / "new" / "check.json",
        tokens=TokenQuestion(str(project / "configs/tiny/llama.yaml"), "85", "4"),
    )
    table = capsys.readouterr().out
    tasks = {task["name"]: task for task in content["tasks"]}
    assert {name for name, task in tasks.items() if task["status"] == "ok"} == {
        "demo_qa",
        "demo_entities",
        "demo_relations",
        "demo_summary",
    }
    assert (
        tasks["demo_entities"]["counts"] == {"train": 27, "validation": 3, "test": 10} and tasks["pubmedqa"]["missing"]
    )
    for task in (t for t in tasks.values() if t["status"] == "ok"):
        for name in ("input", "answer"):
            p50, p90, p99, most = task["tokens"][name].values()
            assert 0 < p50 <= p90 <= p99 <= most
    longest = {name: tasks[name]["tokens"]["input"]["max"] for name in ("demo_entities", "demo_summary")}
    assert all(n > 85 for n in longest.values()), "the limit touches nothing: this test checks nothing"
    assert sum(fate["divided"] for fate in tasks["demo_entities"]["fates"].values()) > 0
    assert sum(fate["dropped"] for fate in tasks["demo_summary"]["fates"].values()) > 0
    assert content["limits"] == {"max_length": 85, "max_new_tokens": 4} and "answers cut" in table
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) & 0o077 == 0
    assert all(pair["target"] in tasks and pair["affected"] <= pair["test_documents"] for pair in content["overlaps"])


def test_what_a_run_drops_is_what_was_foretold(project: Path, tmp_path: Path, card: BackboneCard) -> None:
    content = report(
        project, tmp_path / "check.json", tokens=TokenQuestion(str(project / "configs/tiny/llama.yaml"), "90")
    )
    fates = {task["name"]: task["fates"] for task in content["tasks"]}
    config = DataConfig(
        root=str(project / "configs/demo/data"),
        cards=[str(project / "configs/demo/cards")],
        cache=str(tmp_path / "cache"),
        max_length=90,
    )
    found = prepare(
        {"demo_entities": ["train"], "demo_summary": ["train"]},
        config,
        layout=Layout(card, load_tokenizer(card.tokenizer)),
        print_rank0=lambda _: None,
    )
    for task, data in found.items():
        split = data.splits["train"]
        assert (len(split), split.n_dropped) == (fates[task]["train"]["pieces"], fates[task]["train"]["dropped"]), task


def test_overlap_is_looked_for_among_the_tasks_named(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = OverlapQuestion(targets=["demo_relations"], sources=["demo_entities"])
    content = report(project, tmp_path / "a.json", tasks=["demo_qa"], overlap=asked)
    assert {task["name"] for task in content["tasks"]} == {"demo_qa", "demo_relations", "demo_entities"}
    assert all((pair["target"], pair["source"]) == ("demo_relations", "demo_entities") for pair in content["overlaps"])
    assert "overlap of test with training documents" in capsys.readouterr().out
    assert report(project, tmp_path / "b.json", overlap=OverlapQuestion("false"))["overlaps"] is None
    assert "overlap" not in capsys.readouterr().out


def test_every_wrong_flag_is_told_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        train.main(
            [
                "tasks",
                "check",
                f"--data_root={tmp_path}/gone",
                "--max_length=none",
                "--max_new_tokens=7",
                "--targets=pubmedq",
                "--overlap=no",
                f"--output={tmp_path}",
            ]
        )
    lines = capsys.readouterr().err.splitlines()
    assert end.value.code == 2 and len(lines) == 6
    for reason in (
        "is not a folder",
        "must be a whole number > 0; got 'none'",
        "--max_new_tokens: needs --backbone",
        "did you mean 'pubmedqa'",
        "must be true or false; got",
        "is a folder; name a file",
    ):
        assert any(reason in line for line in lines), reason


def test_the_json_is_written_although_there_are_problems(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "root").mkdir()
    with pytest.raises(UserError, match="not found in"):
        check_data(str(tmp_path / "root"), tasks=["pubmedqa", "mts_dialog"], output=str(tmp_path / "check.json"))
    content = json.loads((tmp_path / "check.json").read_text())
    assert [task["status"] for task in content["tasks"]] == ["problems", "problems"]


@pytest.fixture
def large(tmp_path: Path) -> tuple[Path, int]:
    """A data root with a brat folder of 12 MB in 240 notes; its size."""
    folder = tmp_path / "root" / "large"
    size = 0
    for number in range(240):
        path = folder / ("train" if number % 10 else "test") / f"n{number}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        text = "".join(f"word{(number * 7919 + i * 31) % 9973} aspirin.\n" for i in range(2700))
        path.write_text(text)
        starts = [text.index("aspirin")]
        for _ in range(20):
            starts.append(text.index("aspirin", starts[-1] + 500))
        path.with_suffix(".ann").write_text("".join(f"T{i}\tDrug {s} {s + 7}\taspirin\n" for i, s in enumerate(starts)))
        size += path.stat().st_size
    card = {
        "extends": "brat_entities",
        "name": "large",
        "licence": "invented",
        "access": "invented",
        "splits": {"train": {"files": ["train/*.txt"]}, "test": {"files": ["test/*.txt"]}},
    }
    (tmp_path / "cards").mkdir()
    (tmp_path / "cards/large.yaml").write_text(yaml.safe_dump(card))
    return tmp_path, size


@pytest.mark.slow
def test_memory_does_not_grow_with_the_corpus(
    large: tuple[Path, int], card: BackboneCard, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, size = large
    monkeypatch.setattr(task_check, "_ROUND_TRIP_CHARACTERS", 200_000)
    config = DataConfig(
        root=str(place / "root"), cards=[str(place / "cards")], cache=str(place / "cache"), max_length=40_000
    )
    layout = Layout(card, load_tokenizer(card.tokenizer))
    monkeypatch.setattr(
        layout, "context_ids", lambda text: list(range(len(text) // 100))
    )  # not the tokenizer's speed is asked
    before = pyarrow.default_memory_pool().max_memory()
    tracemalloc.start()
    (check,) = check_tasks([load_card(place / "cards/large.yaml")], place / "root")
    checked = tracemalloc.get_traced_memory()[1]
    tracemalloc.reset_peak()
    data = prepare({"large": ["train"]}, config, layout, print_rank0=lambda _: None)
    prepared = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    arrow = pyarrow.default_memory_pool().max_memory() - before
    assert check.counts == {"train": 216, "test": 24} and check.notes[0].startswith("round trip on 10 of 240 examples")
    assert len(data["large"].splits["train"]) == 216
    assert size > 11_000_000
    assert max(checked, prepared, arrow) < size / 3, (checked, prepared, arrow, size)
