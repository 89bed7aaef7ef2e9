"""Answers of a trained prompt: options by likelihood, everything else greedily; against one sample at a time."""

import json
import os
import stat
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from clinical_tasks import Example
from engine.data import Sample, Split, TaskData
from engine.evaluation import Asker, _write_predictions
from prompt_modules import SoftPromptBank
from prompt_modules.bank import JoinedBank

OPTIONS = ("yes", "no", "maybe not")
DROPPED = 3
INSTRUCTION = "the dose of asthma"


@pytest.fixture
def bank() -> JoinedBank:
    """Two prompts, far apart."""
    drawn = torch.from_numpy(np.random.default_rng(3).standard_normal((2, 5, 64)))
    return JoinedBank({"teacher": SoftPromptBank(0.5 * drawn)}, {"teacher": 2})


@pytest.fixture
def task(make_session) -> Callable[[str], TaskData]:
    """``task("likelihood")``: eight test examples, of which one did not fit."""
    layout = make_session("layout").layout

    def make(answer: str) -> TaskData:
        from datasets import Dataset

        rng = np.random.default_rng(1)
        columns: dict[str, list] = {"context_ids": [], "answer_ids": [], "example": [], "kept": []}
        for i in range(8):
            options = OPTIONS[: 2 + i % 2] if answer == "likelihood" else ()
            example = Example("mine", f"e{i}", f"d{i}", 0, f"pain {i} ?", "yes", options, {})
            columns["context_ids"].append(rng.integers(3, 1000, rng.integers(1, 9)).tolist())
            columns["answer_ids"].append(layout.answer_ids("yes"))
            columns["example"].append(json.dumps(example.__dict__))
            columns["kept"].append(i != DROPPED)
        return TaskData(SimpleNamespace(answer=answer, instruction=INSTRUCTION), {"test": Split(Dataset.from_dict(columns))})  # type: ignore[arg-type]

    return make


@pytest.mark.parametrize("budget", [10**6, 60, 1])
@pytest.mark.parametrize("row", [0, 1])
def test_a_choice_is_the_likeliest_option_with_its_end(row: int, budget: int, make_session, bank: JoinedBank, task, naive_losses) -> None:
    s = make_session(token_budget=budget)
    mine = task("likelihood")
    found = Asker(s, bank).answers(mine, row)
    rows = mine.splits["test"]
    chosen = set()
    for i in range(8):
        options = rows.example(i).options
        context = rows.sample(i).context_ids
        with torch.no_grad():
            prompt = bank.prompts(torch.tensor([row]))[0]
            logp = [-sum(t.item() for t in naive_losses(Sample(context, s.layout.answer_ids(o)), prompt)["ce"]) for o in options]
        wanted = "" if i == DROPPED else options[int(np.argmax(logp))]
        assert found[i] == wanted
        chosen.add(wanted)
    assert len(chosen) > 1


def test_options_may_be_compared_by_their_mean_log_likelihood(make_session, bank: JoinedBank, task, naive_losses) -> None:
    s = make_session(**{"evaluate.likelihood": "mean"})
    mine = task("likelihood")
    found, summed = Asker(s, bank).answers(mine, 1), Asker(make_session(), bank).answers(mine, 1)
    rows = mine.splits["test"]
    for i in rows.kept:
        options, context = rows.example(i).options, rows.sample(i).context_ids
        with torch.no_grad():
            prompt = bank.prompts(torch.tensor([1]))[0]
            per_token = [naive_losses(Sample(context, s.layout.answer_ids(o)), prompt)["ce"] for o in options]
        assert found[i] == options[int(np.argmax([-sum(t.item() for t in terms) / len(terms) for terms in per_token]))]
    assert found != summed  # the option of several tokens gains


def test_rows_answer_differently(make_session, bank: JoinedBank, task) -> None:
    asker = Asker(make_session(**{"evaluate.max_new_tokens": 4}), bank)
    assert asker.answers(task("generation"), 0) != asker.answers(task("generation"), 1)


@pytest.mark.parametrize("formulation", ["packed", "plain"])
@pytest.mark.parametrize("batch", [1, 3, 8])
def test_generation_is_greedy_whatever_the_batch(batch: int, formulation: str, make_session, bank: JoinedBank, task, backbone) -> None:
    s = make_session(**{"evaluate.max_new_tokens": 6, "evaluate.batch": batch, "formulation": formulation})
    mine = task("generation")
    found = Asker(s, bank).answers(mine, 1)
    rows, prompt = mine.splits["test"], bank.prompts(torch.tensor([1]))[0].detach()
    embed = backbone.model.get_input_embeddings()
    for i in range(8):
        ids = list(rows.sample(i).context_ids)
        answer: list[int] = []
        with torch.no_grad():
            while len(answer) < 6 and s.layout.end_id not in answer:
                embeds = torch.cat([prompt, embed(torch.tensor(ids + answer))])[None]
                answer.append(int(backbone.model(inputs_embeds=embeds).logits[0, -1].argmax()))
        assert found[i] == ("" if i == DROPPED else s.layout.answer_text(answer))
    assert len(set(found)) > 2


@pytest.mark.parametrize("answer", ["likelihood", "generation"])
@pytest.mark.parametrize("first", [True, False])
def test_an_instruction_is_asked_in_place_of_a_prompt(answer: str, first: bool, make_session, task, backbone) -> None:
    s = make_session(**{"evaluate.max_new_tokens": 6, "evaluate.batch": 3})
    s.layout.instruction_first = first
    mine = task(answer)
    found = Asker(s, None).answers(mine, 0)
    encode, bos = s.tokenizer.encode, s.tokenizer.bos_id
    for i in range(8):
        example = mine.splits["test"].example(i)
        after = s.layout.separator
        ids = [*encode(INSTRUCTION), bos, *encode(example.input_text + after)] if first else [bos, *encode(INSTRUCTION + after + example.input_text + after)]
        wanted = ""
        with torch.no_grad():
            if answer == "likelihood":
                scores = []
                for option in example.options:
                    label = s.layout.answer_ids(option)
                    logits = backbone.model(input_ids=torch.tensor([ids + label])).logits[0].log_softmax(-1)
                    scores.append(sum(logits[len(ids) - 1 + n, token].item() for n, token in enumerate(label)))
                wanted = example.options[int(np.argmax(scores))]
            else:
                answered: list[int] = []
                while len(answered) < 6 and s.layout.end_id not in answered:
                    answered.append(int(backbone.model(input_ids=torch.tensor([ids + answered])).logits[0, -1].argmax()))
                wanted = s.layout.answer_text(answered)
        assert found[i] == ("" if i == DROPPED else wanted)
    assert len(set(found)) > 1


def test_an_answer_ends_at_the_end_token(make_session, bank: JoinedBank, task, monkeypatch: pytest.MonkeyPatch) -> None:
    s = make_session(**{"evaluate.max_new_tokens": 6})
    free = Asker(s, bank).answers(task("generation"), 1)
    word = s.tokenizer.encode(" asthma")[0]
    (which,) = [i for i, text in enumerate(free) if text.endswith(" asthma")]
    monkeypatch.setattr(s.layout, "end_id", word)  # what the model says last is the end now
    short = Asker(s, bank).answers(task("generation"), 1)
    assert short[which] and free[which].startswith(short[which]) and "asthma" not in short[which]


def test_predictions_are_protected_like_notes(task, tmp_path) -> None:
    before = os.umask(0o022)
    try:
        labels = {"task": "mine", "method": "metaprompt", "shots": "16", "seed": 2}
        _write_predictions(tmp_path / "predictions", labels, task("generation").splits["test"], [str(i) for i in range(8)])
    finally:
        os.umask(before)
    (path,) = (tmp_path / "predictions").iterdir()
    assert path.name == "mine.metaprompt.16.2.jsonl"
    assert [json.loads(line) for line in path.read_text().splitlines()] == [{"example_id": f"e{i}", "answer": str(i)} for i in range(8)]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and stat.S_IMODE(path.parent.stat().st_mode) == 0o700
