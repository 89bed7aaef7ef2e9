"""A user's notes through a row of a run: which row, what is refused, what is written, what a kill costs."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from clinical_tasks import load_card
from engine.core.errors import UserError
from engine.evaluation.eval_targets import ScoredRow
from engine.evaluation.notes import Wanted, _warnings, choose_row, predict_notes
from engine.evaluation.prediction_store import PredictionStore
from prompt_modules import SoftPromptBank
from prompt_modules.bank import JoinedBank

CANARY = "Zebulon"
CARD = {
    "ner": "type: ner\nreader: brat\ninput: |\n  {text}\n  Mentions:\nmetric: span_f1_strict\nsplits: {test: "
    "'*.txt'}\nlabels: {Drug: drug}\n",
    "nli": "type: nli\nreader: jsonl\ninput: |\n  {premise}\n  {hypothesis}\nmetric: accuracy\nsplits: {test: "
    "a.jsonl}\n"
    "columns: {premise: p, hypothesis: h, answer: a}\nlabels: {e: entails, c: contradicts}\nanswer: likelihood\n",
}


def labels(method: str = "metaprompt", shots: str = "full", seed: int = 0, task: str = "mine") -> dict[str, Any]:
    return {"task": task, "method": method, "shots": shots, "seed": seed}


@pytest.fixture
def make(make_holder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """``make("ner", **changes)``: a session whose run has three rows of a task ``mine`` of this type; the model's
    own answers.
    """
    bank = JoinedBank(
        {
            "metaprompt": SoftPromptBank(
                torch.randn(3, 5, 64, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
            )
        },
        {"metaprompt": 3},
    )
    rows = [
        ScoredRow(labels(shots=s, seed=n), bank, k, 5, "sha")
        for k, (s, n) in enumerate([("16", 0), ("full", 3), ("full", 1)])
    ]
    monkeypatch.setattr("engine.evaluation.notes.rows_of_run", lambda holder: (rows, bank, SimpleNamespace()))

    def holder(kind: str, **changes: Any) -> Any:
        (tmp_path / "cards").mkdir(exist_ok=True)
        (tmp_path / "cards" / "mine.yaml").write_text(
            f"name: mine\nlicence: invented\naccess: public\nfolder: x\n{CARD[kind]}"
        )
        return make_holder(**{"data.cards": [str(tmp_path / "cards")], "evaluate.max_new_tokens": 4, **changes})

    return holder


def notes(tmp_path: Path, n: int = 5, words: int = 3) -> Path:
    path = tmp_path / "notes.jsonl"
    path.write_text(
        "".join(json.dumps({"id": f"n{i}", "text": f"{CANARY} takes aspirin {i}. " * words}) + "\n" for i in range(n))
    )
    return path


def test_the_row_by_default_and_by_name() -> None:
    shots = [("16", 0), ("4", 2), ("64", 5), ("64", 2)]
    rows = [
        ScoredRow(labels("prompt_tuning")),
        *(ScoredRow(labels(shots=s, seed=n)) for s, n in shots),
        ScoredRow(labels("in_context", "64")),
    ]
    rows += [ScoredRow(labels("teacher", task="other"))]
    name = lambda *words: choose_row(rows, Wanted(*words), Path("run")).name  # noqa: E731
    assert (
        name("mine") == "mine.metaprompt.64.5"
        and name("mine", "", "4") == "mine.metaprompt.4.2"
        and name("mine", "", "", "2") == "mine.metaprompt.64.2"
    )
    assert name("mine", "prompt_tuning") == "mine.prompt_tuning.full.0" and name("other") == "other.teacher.full.0"
    refused = (
        (("mien",), "--task: 'mien' is not in run; it has mine, other"),
        (("mine", "", "full"), "no row metaprompt full *"),
        (("mine", "lora"), "has no row lora * * of mine; it has prompt_tuning full 0, "),
        (("mine", "in_context"), "no row in_context"),
    )
    for words, wanted in refused:
        with pytest.raises(UserError) as error:
            choose_row(rows, Wanted(*words), Path("run"))
        assert wanted in error.value.problems[0]


def test_every_note_is_answered_in_order_and_a_kill_costs_what_was_not_written(
    make, tmp_path: Path, monkeypatch, capsys
) -> None:
    s, source, output = make("ner"), notes(tmp_path), tmp_path / "out.jsonl"

    class Killed(Exception):
        pass

    asked: list[int] = []
    add = PredictionStore.add

    def dying(self: PredictionStore, index: int, answered: Any) -> None:
        add(self, index, answered)
        asked.append(index)
        if len(asked) == 2:
            raise Killed

    monkeypatch.setattr(PredictionStore, "add", dying)
    with pytest.raises(Killed):
        predict_notes(s, wanted=Wanted("mine"), source=source, output=output, into_folder=False)
    assert not output.exists() and (tmp_path / ".out.jsonl.answers.rank0.part").exists()
    predict_notes(s, wanted=Wanted("mine"), source=source, output=output, into_folder=False)
    assert sorted(asked) == [0, 1, 2, 3, 4], "each once"
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    assert [line["id"] for line in lines] == [f"n{i}" for i in range(5)] and all(
        "spans" in line and line.get("n_truncated") in (None, 1) for line in lines
    )
    assert output.stat().st_mode & 0o777 == 0o600 and not list(tmp_path.glob(".out*"))
    said = capsys.readouterr().out
    assert "5 notes in 5 pieces, by mine.metaprompt.full.3" in said and CANARY not in said
    with pytest.raises(UserError, match="already exists"):
        predict_notes(s, wanted=Wanted("mine"), source=source, output=output, into_folder=False)
    before = output.read_text()
    s.context.config.overwrite = True
    predict_notes(s, wanted=Wanted("mine"), source=source, output=output, into_folder=False)
    assert output.read_text() == before and len(asked) == 10


def test_long_notes_are_split_and_what_cannot_be_is_told(make, tmp_path: Path, capsys) -> None:
    source, output = notes(tmp_path, 2, 12), tmp_path / "out.jsonl"
    holder = make("ner", **{"data.max_length": 40})
    predict_notes(holder, wanted=Wanted("mine"), source=source, output=output, into_folder=False)
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    assert all(line["n_pieces"] > 3 and "n_not_asked" not in line for line in lines)
    source.write_text(
        json.dumps({"id": "long", "text": "aspirin " * 200}) + "\n" + json.dumps({"id": "short", "text": "aspirin"})
    )
    predict_notes(holder, wanted=Wanted("mine"), source=source, output=tmp_path / "more.jsonl", into_folder=False)
    long, short = (json.loads(line) for line in (tmp_path / "more.jsonl").read_text().splitlines())
    assert long["n_not_asked"] == 1 and long["spans"] == [] and "n_not_asked" not in short
    assert "WARNING 1 of 2 notes have a part longer than data.max_length=40" in capsys.readouterr().out


def test_spans_become_brat_files_and_choices_labels(make, tmp_path: Path, monkeypatch) -> None:
    holder = make("ner")
    monkeypatch.setattr(holder.context.layout, "answer_text", lambda ids: "drug: aspirin\ndrug: absent")
    predict_notes(
        holder, wanted=Wanted("mine"), source=notes(tmp_path, 2, 1), output=tmp_path / "brat", into_folder=True
    )
    assert {p.name: p.read_text() for p in (tmp_path / "brat").iterdir()} == {
        f"n{i}.ann": "T1\tDrug 14 21\taspirin\n" for i in range(2)
    }
    source = tmp_path / "pairs.jsonl"
    source.write_text("".join(json.dumps({"id": i, "premise": f"p {i}", "hypothesis": "h"}) + "\n" for i in range(3)))
    predict_notes(
        make("nli"), wanted=Wanted("mine"), source=source, output=tmp_path / "labels.jsonl", into_folder=False
    )
    lines = [json.loads(line) for line in (tmp_path / "labels.jsonl").read_text().splitlines()]
    assert [line["id"] for line in lines] == ["0", "1", "2"] and all(
        line["label"] == line["answer"] in ("entails", "contradicts") for line in lines
    )


def test_what_is_wrong_is_told_before_anything_starts(make, tmp_path: Path, monkeypatch) -> None:
    holder = make("ner")
    monkeypatch.setattr(type(holder), "backbone", lambda self: pytest.fail("the backbone was built"))

    def problems(source: Path, output: Path, folder: bool = False) -> list[str]:
        with pytest.raises(UserError) as error:
            predict_notes(holder, wanted=Wanted("mine"), source=source, output=output, into_folder=folder)
        assert not any(CANARY in p for p in error.value.problems)
        return error.value.problems

    broken = tmp_path / "broken.jsonl"
    broken.write_text(f'{{"id": "{CANARY}/x", "text": "ok"}}\n{{"id": "b", "text"\n')
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x.ann").write_text("")
    found = problems(broken, tmp_path / "full", True)
    assert (
        len(found) == 3
        and f"{broken}:2: is not JSON" in found[0]
        and "already exists" in found[1]
        and "note 1: its id cannot name a file" in found[2]
    )
    assert "is not a folder; create it first" in problems(notes(tmp_path), tmp_path / "nowhere" / "x.jsonl")[0]
    holder = make("nli")
    source = tmp_path / "pairs.jsonl"
    source.write_text(json.dumps({"id": 1, "premise": CANARY, "hypothesis": "h"}))
    assert "is for NER" in problems(source, tmp_path / "labels", True)[0]


def test_the_cards_of_this_file_are_valid(make, tmp_path: Path) -> None:
    for kind in CARD:
        make(kind)
        assert load_card(tmp_path / "cards" / "mine.yaml").type == kind


def test_notes_with_a_fault_are_counted_not_their_faults() -> None:
    found = _warnings([{"n_truncated": 3}, {"n_truncated": 1, "unaligned": ["x"]}, {}], 100, 4)
    assert found[0].startswith("2 of 3 notes have an answer cut at evaluate.max_new_tokens=4") and found[1].startswith(
        "1 of 3 notes have lines"
    )
