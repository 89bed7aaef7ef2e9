"""Answers of a trained prompt: options by likelihood, everything else greedily; against one sample at a time."""

import json
import os
import stat
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from clinical_tasks import Example
from engine.data.dataset import Sample, Split, TaskData
from engine.evaluation.eval_targets import ScoredRow, shown_examples
from engine.evaluation.evaluate import _said_of_examples
from engine.evaluation.few_shot_context import Shown, common_start
from engine.evaluation.prediction_store import Prediction, PredictionStore
from engine.evaluation.predictor import Predictor
from engine.training.rows import adapt_rows
from prompt_modules.bank import JoinedBank
from tests.engine.asked_task import DROPPED, INSTRUCTION, SOLVED


@pytest.mark.parametrize("budget", [10**6, 60, 1])
@pytest.mark.parametrize("row", [0, 1])
def test_a_choice_is_the_likeliest_option_with_its_end(
    row: int, budget: int, make_holder, bank: JoinedBank, task, naive_losses
) -> None:
    s = make_holder(max_tokens_per_micro_batch=budget)
    mine = task("likelihood")
    found = Predictor(s, bank).answers(mine, row)
    rows = mine.splits["test"]
    chosen = set()
    for i in range(8):
        options = rows.example(i).options
        context = rows.sample(i).context_ids
        with torch.no_grad():
            prompt = bank.prompts(torch.tensor([row]))[0]
            logp = [
                -sum(t.item() for t in naive_losses(Sample(context, s.context.layout.answer_ids(o)), prompt)["ce"])
                for o in options
            ]
        wanted = "" if i == DROPPED else options[int(np.argmax(logp))]
        assert found[i] == wanted
        chosen.add(wanted)
    assert len(chosen) > 1


def test_options_may_be_compared_by_their_mean_log_likelihood(
    make_holder, bank: JoinedBank, task, naive_losses
) -> None:
    s = make_holder(**{"evaluate.likelihood": "mean"})
    mine = task("likelihood")
    found, summed = Predictor(s, bank).answers(mine, 1), Predictor(make_holder(), bank).answers(mine, 1)
    rows = mine.splits["test"]
    for i in rows.sample_indices:
        options, context = rows.example(i).options, rows.sample(i).context_ids
        with torch.no_grad():
            prompt = bank.prompts(torch.tensor([1]))[0]
            per_token = [naive_losses(Sample(context, s.context.layout.answer_ids(o)), prompt)["ce"] for o in options]
        assert found[i] == options[int(np.argmax([-sum(t.item() for t in terms) / len(terms) for terms in per_token]))]
    assert found != summed  # the option of several tokens gains


def test_rows_answer_differently(make_holder, bank: JoinedBank, task) -> None:
    predictor = Predictor(make_holder(**{"evaluate.max_new_tokens": 4}), bank)
    assert predictor.answers(task("generation"), 0) != predictor.answers(task("generation"), 1)


@pytest.mark.parametrize("batching", ["packed", "padded"])
@pytest.mark.parametrize("batch", [1, 3, 8])
def test_generation_is_greedy_whatever_the_batch(
    batch: int, batching: str, make_holder, bank: JoinedBank, task, backbone
) -> None:
    s = make_holder(**{"evaluate.max_new_tokens": 6, "evaluate.batch_size": batch, "batching": batching})
    mine = task("generation")
    found = Predictor(s, bank).answers(mine, 1)
    rows, prompt = mine.splits["test"], bank.prompts(torch.tensor([1]))[0].detach()
    embed = backbone.model.get_input_embeddings()
    for i in range(8):
        ids = list(rows.sample(i).context_ids)
        answer: list[int] = []
        with torch.no_grad():
            while len(answer) < 6 and s.context.layout.end_id not in answer:
                embeds = torch.cat([prompt, embed(torch.tensor(ids + answer))])[None]
                answer.append(int(backbone.model(inputs_embeds=embeds).logits[0, -1].argmax()))
        assert found[i] == ("" if i == DROPPED else s.context.layout.answer_text(answer))
    assert len(set(found)) > 2


@pytest.mark.parametrize("answer", ["likelihood", "generation"])
@pytest.mark.parametrize(
    ("first", "solved", "batching"),
    [
        (True, [], "packed"),
        (False, [], "plain"),
        (True, SOLVED, "packed"),
        (False, SOLVED, "packed"),
        (False, SOLVED, "plain"),
    ],
)
def test_an_instruction_is_asked_in_place_of_a_prompt(
    answer: str, first: bool, solved, batching: str, make_holder, task, backbone
) -> None:
    """With solved examples between it and the input where there are any; each whole context anew, read in one go."""
    s = make_holder(**{"evaluate.max_new_tokens": 6, "evaluate.batch_size": 3, "batching": batching})
    s.context.layout.instruction_first = first
    mine = task(answer)
    found = Predictor(s, None, solved).answers(mine, 0)
    shown = "".join(f"{text}{s.context.layout.separator}{answered}\n\n" for text, answered in solved)
    encode, bos = s.context.tokenizer.encode, s.context.tokenizer.bos_id
    for i in range(8):
        example = mine.splits["test"].example(i)
        after = s.context.layout.separator
        asked = shown + example.input_text + after
        ids = [*encode(INSTRUCTION), bos, *encode(asked)] if first else [bos, *encode(INSTRUCTION + after + asked)]
        wanted = ""
        with torch.no_grad():
            if answer == "likelihood":
                scores = []
                for option in example.options:
                    label = s.context.layout.answer_ids(option)
                    logits = backbone.model(input_ids=torch.tensor([ids + label])).logits[0].log_softmax(-1)
                    scores.append(sum(logits[len(ids) - 1 + n, token].item() for n, token in enumerate(label)))
                wanted = example.options[int(np.argmax(scores))]
            else:
                answered: list[int] = []
                while len(answered) < 6 and s.context.layout.end_id not in answered:
                    answered.append(
                        int(backbone.model(input_ids=torch.tensor([ids + answered])).logits[0, -1].argmax())
                    )
                wanted = s.context.layout.answer_text(answered)
        assert found[i] == ("" if i == DROPPED else wanted)
    assert len(set(found)) > 1


def test_an_answer_ends_at_the_end_token(make_holder, bank: JoinedBank, task, monkeypatch: pytest.MonkeyPatch) -> None:
    s = make_holder(**{"evaluate.max_new_tokens": 6})
    free = Predictor(s, bank).answers(task("generation"), 1)
    word = s.context.tokenizer.encode(" asthma")[0]
    (which,) = [i for i, text in enumerate(free) if text.endswith(" asthma")]
    monkeypatch.setattr(s.context.layout, "end_id", word)  # what the model says last is the end now
    short = Predictor(s, bank).answers(task("generation"), 1)
    assert short[which] and free[which].startswith(short[which]) and "asthma" not in short[which]


def test_examples_that_do_not_fit_are_left_out_from_the_end_and_counted(make_holder, task) -> None:
    s = make_holder(**{"evaluate.max_new_tokens": 6})
    mine, layout = task("generation"), s.context.layout
    longest = max(
        len(layout.instructed_ids(INSTRUCTION, e.input_text, SOLVED[:1])) for e in mine.splits["test"].examples()
    )
    room = [longest + 6, longest + 5, 1]  # one example everywhere, not everywhere, nowhere
    counts = []
    for limit in room:
        predictor = Predictor(
            make_holder(**{"evaluate.max_new_tokens": 6, "evaluate.max_context": limit}), None, SOLVED
        )
        answers = predictor.answers(mine, 0)
        assert predictor.shown is not None and predictor.nothing_fits == (limit == 1) == (answers == [])
        counts.append(predictor.shown.told())
    assert counts[0] == {
        "n_examples_left_out": 7,
        "n_examples_most": 1,
        "n_examples_fewest": 1,
    }  # of seven contexts that are asked
    assert 7 < counts[1]["n_examples_left_out"] <= 14 and counts[1]["n_examples_fewest"] == 0
    assert counts[2] == {"n_examples_left_out": 14, "n_examples_most": 0, "n_examples_fewest": 0}


def test_contexts_have_a_length_of_their_own_within_the_backbones_positions(make_holder, task) -> None:
    mine = task("generation")
    short = Predictor(make_holder(**{"data.max_length": 1}), None, SOLVED)  # of samples that are trained on
    short.answers(mine, 0)
    assert short.shown is not None and short.shown.limit == 8192 and set(short.shown.used) == {len(SOLVED)}
    s = make_holder(**{"evaluate.max_context": 10**6})
    s.context.model_config.max_position_embeddings = 300
    predictor = Predictor(s, None, SOLVED)
    predictor._begin(mine.card)
    assert predictor.shown is not None and predictor.shown.limit == 300


def test_examples_that_fit_nowhere_or_not_everywhere_are_warned_about(make_holder, task) -> None:
    labels = {"task": "mine", "method": "in_context", "shots": "2", "seed": 0}
    predictor = Predictor(make_holder(), None, SOLVED)
    predictor.shown = Shown(predictor.holder.context.layout, INSTRUCTION, SOLVED, 100, used=[2, 1])
    assert _said_of_examples(predictor, labels, 100) == []
    predictor.shown.used = [2, 0, 0]
    (line,) = _said_of_examples(predictor, labels, 100)
    assert line.startswith(
        "WARNING mine in_context 2 seed 0: 2 of 3 contexts hold no solved example; evaluate.max_context=100"
    )
    predictor.nothing_fits = True
    (line,) = _said_of_examples(predictor, labels, 100)
    assert "no solved example fits any context, so there is no score" in line
    assert _said_of_examples(Predictor(make_holder(), None), labels, 100) == []  # the instruction alone


@pytest.mark.parametrize("limit", [0, 30, 60, 90, 200, 10_000])
def test_a_context_holds_as_many_examples_as_fit(limit: int, make_holder) -> None:
    layout = make_holder().context.layout
    examples = [(f"note {'pain ' * (n % 4)}{n}", "yes") for n in range(9)]
    shown = Shown(layout, INSTRUCTION, examples, limit)
    ids = shown.context("fever ?", 5)
    fitting = [n for n in range(10) if len(layout.instructed_ids(INSTRUCTION, "fever ?", examples[:n])) + 5 <= limit]
    assert shown.used == [max(fitting, default=0)] and ids == layout.instructed_ids(
        INSTRUCTION, "fever ?", examples[: shown.used[0]]
    )


def test_the_beginning_that_contexts_share() -> None:
    assert common_start([[1, 2, 3, 4], [1, 2, 5], [1, 2, 3, 4, 6]]) == 2
    assert common_start([[1, 2], [1, 2]]) == common_start([[1, 2], [1, 2, 3]]) == 1, "each keeps a token of its own"
    assert common_start([[1], [2, 3]]) == common_start([[], [2, 3]]) == common_start([[7]]) == 0


def stored(folder, key="k", rank=0, name="mine.metaprompt.16.2") -> PredictionStore:
    return PredictionStore(folder / "predictions", name, key, rank)


def test_predictions_are_protected_like_notes(task, tmp_path) -> None:
    before = os.umask(0o022)
    try:
        kept = stored(tmp_path)
        kept.read()
        kept.add(4, Prediction("as it came", False, 6))
        (part,) = (tmp_path / "predictions").iterdir()
        assert stat.S_IMODE(part.stat().st_mode) == 0o600
        kept.close()
        kept.finish(task("generation").splits["test"], [Prediction(str(i)) for i in range(8)])
    finally:
        os.umask(before)
    (path,) = (tmp_path / "predictions").iterdir()
    assert path.name == "mine.metaprompt.16.2.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(line["example_id"], line["answer"]) for line in lines] == [(f"e{i}", str(i)) for i in range(8)]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_what_every_rank_wrote_is_read_back_and_nothing_torn_damaged_or_of_another_key(tmp_path) -> None:
    first, second = stored(tmp_path), stored(tmp_path, rank=1)
    first.read()
    answers = {i: Prediction(f"drug: aspirin \u00e9 {i}\nnone", i % 2 == 0, i) for i in range(6)}
    for i in (0, 1, 2):
        first.add(i, answers[i])
    for i in (3, 4, 5):
        second.add(i, answers[i])
    first.close()
    second.close()
    assert stored(tmp_path).read() == answers
    assert stored(tmp_path, name="mine.metaprompt.16.20").read() == {} == stored(tmp_path, key="other").read()
    path = tmp_path / "predictions" / ".mine.metaprompt.16.2.rank1.part"
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"aspirin \\u00e9 3", b"aspirin \\u00e9 8") + b'{"index": 7, "answer": "x')
    assert stored(tmp_path).read() == {i: a for i, a in answers.items() if i != 3}
    again = stored(tmp_path, rank=1)
    again.add(7, answers[5])  # behind what a kill tore
    again.close()
    assert stored(tmp_path).read() == {i: a for i, a in answers.items() if i != 3} | {7: answers[5]}
    path.write_bytes(b"[]\n3\nnull\n\xff\xfe\n{}\n")
    assert stored(tmp_path).read() == {i: answers[i] for i in (0, 1, 2)}
    assert stored(tmp_path).read(overwrite=True) == {} == stored(tmp_path).read()


@pytest.mark.parametrize("answer", ["likelihood", "generation"])
def test_an_evaluation_goes_on_where_it_was_killed(
    answer: str, make_holder, bank: JoinedBank, task, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    s = make_holder(max_tokens_per_micro_batch=20, **{"evaluate.max_new_tokens": 4, "evaluate.batch_size": 2})
    monkeypatch.setattr("engine.evaluation.predictor.CHUNK", 1)
    mine, row = (
        task(answer),
        ScoredRow({"task": "mine", "method": "teacher", "shots": "full", "seed": 0}, bank, 1, 5, "sha"),
    )
    wanted = Predictor(s, bank).answers(mine, 1)

    def kept(predictor: Predictor) -> PredictionStore:
        return PredictionStore(
            tmp_path / "predictions", row.name, key=predictor.key(mine.card, mine.splits["test"], row), rank=0
        )

    class Killed(Exception):
        pass

    class Dying(PredictionStore):
        def add(self, index: int, answered: Prediction) -> None:
            super().add(index, answered)
            if len(self.read()) == 3:
                raise Killed

    predictor = Predictor(s, bank)
    with pytest.raises(Killed):
        predictor.answers(
            mine, 1, Dying(tmp_path / "predictions", row.name, predictor.key(mine.card, mine.splits["test"], row), 0)
        )
    assert predictor.answers(mine, 1, kept(predictor)) == wanted
    assert (predictor.work.answers, predictor.work.read_back) == (4, 3) and (predictor.work.tokens > 0) == (
        answer == "generation"
    )
    assert predictor.answers(mine, 1, kept(predictor)) == wanted and (
        predictor.work.answers,
        predictor.work.read_back,
    ) == (0, 7)
    truncated = predictor.n_truncated
    s.context.config.overwrite = True
    assert (
        predictor.answers(mine, 1, kept(predictor)) == wanted
        and (predictor.work.answers, predictor.work.read_back) == (7, 0)
        and predictor.n_truncated == truncated
    )
    s.context.config.overwrite = False
    s.context.config.evaluate.max_new_tokens = 3  # other answers
    assert (
        predictor.answers(mine, 1, kept(predictor)) == Predictor(s, bank).answers(mine, 1)
        and predictor.work.read_back == 0
    )


def test_a_row_is_asked_again_when_anything_it_depends_on_changed(make_holder, bank: JoinedBank, task) -> None:
    s, mine = make_holder(), task("generation")
    labels = {"task": "mine", "method": "teacher", "shots": "full", "seed": 0}
    row, untrained = ScoredRow(labels, bank, 1, 5, "sha"), ScoredRow({**labels, "method": "in_context"})

    def key(holder=s, row=row, solved=(), split=mine.splits["test"], card=mine.card) -> str:
        return json.dumps(Predictor(holder, row.bank, solved).key(card, split, row))

    other = task("generation").splits["test"]
    other.key = "another release"
    reworded = SimpleNamespace(answer="generation", instruction="other words")
    changed = [
        key(row=ScoredRow(labels, bank, 0, 5, "sha")),
        key(row=ScoredRow(labels, bank, 1, 5, "sum")),
        key(split=other),
        key(row=untrained),
        key(row=untrained, solved=SOLVED),
        key(row=untrained, card=reworded),
        key(make_holder(**{"evaluate.max_new_tokens": 5})),
        key(make_holder(**{"evaluate.likelihood": "mean"})),
        key(make_holder(**{"evaluate.max_context": 99}), row=untrained, solved=SOLVED),
    ]
    assert len({key(), *changed}) == 10
    assert key(make_holder(**{"evaluate.max_context": 99})) == key()
    assert key() == key(make_holder(max_tokens_per_micro_batch=7, **{"evaluate.batch_size": 3})) == key(card=reworded)


def test_in_context_examples_are_the_set_that_trained_rows_get(make_holder, task) -> None:
    from datasets import Dataset

    layout = make_holder().context.layout
    examples = [
        Example("mine", f"e{i}", f"d{i}", 0, f"note {i}", f"answer {i}", (), {"label": str(i % 3)}) for i in range(12)
    ]
    columns = {
        "context_ids": [layout.context_ids(e.input_text) for e in examples],
        "answer_ids": [[5]] * 12,
        "example": [json.dumps(e.__dict__) for e in examples],
        "fits": [i != 4 for i in range(12)],
    }
    train = Split(Dataset.from_dict(columns))
    c = make_holder(
        seed=7,
        **{
            "adapt.targets": ["mine"],
            "adapt.shots": ["2", "4", "full"],
            "adapt.seeds": [0, 1],
            "adapt.methods": ["metaprompt", "instruction", "in_context"],
        },
    ).context.config
    rows = adapt_rows(c, {"mine": TaskData(None, {"train": train})})  # type: ignore[arg-type]
    assert {r.method for r in rows} == {"metaprompt"}
    for row in rows:
        if row.shots != "full":
            labels = {"task": "mine", "method": "in_context", "shots": row.shots, "seed": row.seed}
            assert shown_examples(train, labels, 7) == [
                (examples[i].input_text, examples[i].answer_text) for i in row.train_indices
            ]
