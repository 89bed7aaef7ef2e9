"""Target tasks kept unseen: what overlaps is told, or left out of the sources' training data; never out of a test
split.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import random
import stat
import threading
from pathlib import Path
from typing import Any

import pytest
import yaml

from backbones import BackboneCard, Layout, load_tokenizer
from clinical_tasks.audit import find_overlaps
from engine.config.loader import resolve
from engine.config.schema import DataConfig
from engine.core.errors import UserError
from engine.data import decontamination, token_cache
from engine.data.dataset import TaskData, data_fingerprint, load_cards, prepare
from engine.data.decontamination import decontaminate, read_overlap_record, target_overlap_record, write_overlap_record
from engine.reporting.report import write_report


def note(seed: int) -> str:
    rng = random.Random(seed)
    return " ".join(f"w{rng.randrange(5000)}" for _ in range(40))


SHARED = [note(n) for n in range(3)]
ROWS = {
    "source": {"train": [*SHARED, *(note(n) for n in range(10, 20))], "test": [note(50)]},
    "clean": {"train": [note(n) for n in range(30, 40)], "test": [note(51)]},
    "target": {"train": [note(60)], "test": [*SHARED, note(61)]},
}


@pytest.fixture
def config(tmp_path: Path) -> DataConfig:
    (tmp_path / "cards").mkdir()
    for name, splits in ROWS.items():
        folder = tmp_path / "root" / name
        folder.mkdir(parents=True)
        for split, texts in splits.items():
            (folder / f"{split}.jsonl").write_text("\n".join(json.dumps({"q": t, "a": "y"}) for t in texts))
        card = {
            "name": name,
            "type": "qa",
            "reader": "jsonl",
            "licence": "invented",
            "access": "invented",
            "input": "{question}",
            "metric": "accuracy",
            "splits": {"train": "train.jsonl", "test": "test.jsonl"},
            "columns": {"question": "q", "answer": "a"},
            "labels": {"y": "yes", "n": "no"},
        }
        (tmp_path / "cards" / f"{name}.yaml").write_text(yaml.safe_dump(card))
    return DataConfig(
        root=str(tmp_path / "root"),
        cards=[str(tmp_path / "cards")],
        cache=str(tmp_path / "cache"),
        decontaminate_against=["target"],
    )


@pytest.fixture
def sources(config: DataConfig, card: BackboneCard) -> dict[str, TaskData]:
    layout = Layout(card, load_tokenizer(card.tokenizer))
    return prepare({"source": ["train"], "clean": ["train"]}, config, layout, print_rank0=lambda _: None)


def test_overlap_is_told_and_kept_unless_it_is_to_be_left_out(config: DataConfig, sources: dict[str, TaskData]) -> None:
    said: list[str] = []
    same, record = decontaminate(sources, config, print_rank0=said.append)
    assert data_fingerprint(same) == data_fingerprint(sources)
    assert record is not None and not record["excluded"] and record["dropped"] == {}
    assert said == [
        "WARNING overlap, kept in distillation: 3 of 4 test documents of target are in 3 training examples of "
        "source (3 same text); "
        "data.drop_contaminated leaves it out"
    ]
    assert decontaminate(sources, dataclasses.replace(config, decontaminate_against=[])) == (sources, None)


def test_only_training_samples_of_sources_are_left_out(
    config: DataConfig, sources: dict[str, TaskData], card: BackboneCard
) -> None:
    said: list[str] = []
    out, record = decontaminate(sources, dataclasses.replace(config, drop_contaminated=True), print_rank0=said.append)
    train = out["source"].splits["train"]
    assert record is not None and record["dropped"] == {"source": 3} and train.n_excluded == 3
    assert len(train.sample_indices) == 10 and not any(
        text in train.example(i).input_text for i in train.sample_indices for text in SHARED
    )
    assert (
        len(sources["source"].splits["train"].sample_indices) == 13
        and out["clean"].splits["train"] is sources["clean"].splits["train"]
    )
    assert train.n_dropped == 0, "what is left out is not what was too long"
    assert data_fingerprint(out) != data_fingerprint(sources)
    assert said[-1] == "data.drop_contaminated: training samples left out: source 3"
    layout = Layout(card, load_tokenizer(card.tokenizer))
    test = prepare(
        {"target": ["test"]},
        config=dataclasses.replace(config, drop_contaminated=True),
        layout=layout,
        print_rank0=lambda _: None,
    )
    assert len(test["target"].splits["test"].sample_indices) == 4


def test_the_comparison_is_made_once_and_anew_when_a_file_changes(
    config: DataConfig, sources: dict[str, TaskData], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    real = decontamination.find_overlaps
    monkeypatch.setattr(decontamination, "find_overlaps", lambda *a: (calls.append(1), real(*a))[1])
    first = decontaminate(sources, config, print_rank0=lambda _: None)[1]
    assert decontaminate(sources, config, print_rank0=lambda _: None)[1] == first and len(calls) == 1
    (file,) = Path(config.cache).glob("overlap-*.json")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600 and SHARED[0].split()[0] not in file.read_text()
    (Path(config.root) / "target/test.jsonl").write_text(json.dumps({"q": note(99), "a": "y"}))
    assert decontaminate(sources, config, print_rank0=lambda _: None)[1] == {
        "targets": ["target"],
        "excluded": False,
        "pairs": [],
        "dropped": {},
    }
    assert len(calls) == 2


def test_another_way_to_compare_has_another_version(config: DataConfig) -> None:
    """Where this fails, raise ``COMPARISON_VERSION`` and record what is found now beside it."""
    cards = load_cards(config)
    found = find_overlaps([cards["target"]], [cards["source"], cards["clean"]], config.root)
    content = [[dataclasses.asdict(pair) for pair in found.pairs], sorted(found.sources["source"])]
    digest = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
    assert (decontamination.COMPARISON_VERSION, digest) == (1, "890bc17141faae57")


@pytest.mark.parametrize("how", ["a number", "cut", "empty"])
def test_a_damaged_comparison_is_named_and_made_again(
    config: DataConfig, sources: dict[str, TaskData], how: str
) -> None:
    first = decontaminate(sources, config, print_rank0=lambda _: None)[1]
    (file,) = Path(config.cache).glob("overlap-*.json")
    whole = file.read_text()
    changed = {"a number": whole.replace("3", "2", 1), "cut": whole[:-9], "empty": ""}
    file.write_text(changed[how])
    said: list[str] = []
    assert decontaminate(sources, config, print_rank0=said.append)[1] == first
    assert said[0].startswith(f"WARNING data.decontaminate_against: {file} ") and "rebuilt" in said[0]
    assert file.read_text() == whole


def test_other_ranks_wait_for_the_comparison(
    config: DataConfig, sources: dict[str, TaskData], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_cache, "POLL_SECONDS", 0.02)
    found: dict[str, Any] = {}
    exclude = dataclasses.replace(config, drop_contaminated=True)
    waiter = threading.Thread(target=lambda: found.update(decontaminate(sources, exclude, 1)[0]), daemon=True)
    waiter.start()
    here = decontaminate(sources, exclude, print_rank0=lambda _: None)[0]
    waiter.join(timeout=10)
    assert not waiter.is_alive() and data_fingerprint(found) == data_fingerprint(here)


def test_targets_that_cannot_be_compared_are_told_at_once(config: DataConfig, sources: dict[str, TaskData]) -> None:
    (Path(config.root) / "target/test.jsonl").unlink()
    with pytest.raises(UserError) as error:
        decontaminate(sources, dataclasses.replace(config, decontaminate_against=["targe", "target"]))
    assert len(error.value.problems) == 2
    assert "did you mean 'target'" in error.value.problems[0] and "not found in" in error.value.problems[1]


def test_a_source_of_nothing_but_overlap_is_refused(
    config: DataConfig, sources: dict[str, TaskData], card: BackboneCard
) -> None:
    (Path(config.root) / "source/train.jsonl").write_text(json.dumps({"q": SHARED[0], "a": "y"}))
    again = prepare(
        {"source": ["train"]}, config, layout=Layout(card, load_tokenizer(card.tokenizer)), print_rank0=lambda _: None
    )
    with pytest.raises(UserError, match="leaves no training example"):
        decontaminate(again, dataclasses.replace(config, drop_contaminated=True), print_rank0=lambda _: None)


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        (
            {"data": {"drop_contaminated": True}, "distill": {"sources": ["a"]}},
            "data.drop_contaminated: needs data.decontaminate_against",
        ),
        (
            {"data": {"decontaminate_against": ["a"]}, "distill": {"sources": ["a", "b"]}},
            "a must not be in distill.sources too",
        ),
        ({"data": {"decontaminate_against": ["a"]}, "adapt": {"targets": ["a"]}}, "only a distillation"),
    ],
)
def test_keys_that_mean_nothing_are_refused(tmp_path: Path, keys: dict[str, Any], reason: str) -> None:
    (tmp_path / "run.yaml").write_text(yaml.safe_dump({"run_dir": "r", "backbone": "b.yaml", **keys}))
    with pytest.raises(UserError) as error:
        resolve(tmp_path / "run.yaml")
    assert any(reason in problem for problem in error.value.problems)


def test_results_and_report_say_what_was_compared(
    config: DataConfig, sources: dict[str, TaskData], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    assert (
        target_overlap_record(run, ["target", "late"])["unchecked"] == ["target", "late"]
        and read_overlap_record(run) is None
    )
    write_overlap_record(run, decontaminate(sources, config, print_rank0=lambda _: None)[1])
    overlap = target_overlap_record(run, ["target", "late"])
    assert overlap["unchecked"] == ["late"] and overlap["pairs"][0]["affected"] == 3
    assert target_overlap_record(run, ["late"])["pairs"] == []
    results = {"tasks": {}, "average": {}, "trainable": {"count": 1, "percent": 0.1}, "backbone": "b"}
    for record, reason in (
        (overlap, "WARNING overlap, kept in distillation: 3 of 4 test documents of target"),
        ({**overlap, "excluded": True, "dropped": {"source": 3}}, "overlap, left out of distillation: 3 of 4"),
        ({**overlap, "pairs": []}, "No test document of the targets was found"),
        (overlap, "distillation): late."),
    ):
        (run / "results.json").write_text(json.dumps({**results, "overlap": record}))
        assert reason in write_report([run], tmp_path / "report")
    (run / "overlap.json").write_text("{")
    with pytest.raises(UserError, match=r"overlap\.json: cannot be read"):
        read_overlap_record(run)
