"""``prompt.init: instruction``: untrained, a prompt is the task's written instruction; the metaprompt starts from
the vocabulary.
"""

from types import SimpleNamespace
from typing import Any

import torch

from engine.data.dataset import TaskData
from engine.training.adapt import adapt_stage
from engine.training.teach_and_distill import distill_stage, teach_stage

WORDS = {"alpha": "list every drug", "beta": "is the finding there ?", "gamma": "write a summary"}


def with_cards(tasks: dict[str, TaskData]) -> dict[str, TaskData]:
    cards: dict[str, Any] = {name: SimpleNamespace(name=name, instruction=words) for name, words in WORDS.items()}
    return {name: TaskData(cards[name], data.splits) for name, data in tasks.items()}


def test_teachers_and_prompt_tuning_start_from_their_tasks_instructions(
    make_holder, tasks: dict[str, TaskData], capsys
) -> None:
    holder = make_holder(**{"prompt.init": "instruction", "adapt.methods": ["prompt_tuning"], "adapt.seeds": [0, 1]})
    data = with_cards(tasks)
    encoded = {name: holder.context.tokenizer.encode(words) for name, words in WORDS.items()}
    holder.context.config.prompt.num_virtual_tokens = length = max(map(len, encoded.values()))
    embed = holder.backbone().embed
    starts = teach_stage(holder, data).bank.prompts(torch.arange(3)).detach()
    for k, ids in enumerate(encoded.values()):
        expected = embed(torch.tensor(ids)).to(starts.dtype)
        assert torch.equal(starts[k, length - len(ids) :], expected)  # whole, and last
    assert "WARNING" not in capsys.readouterr().out
    rows = adapt_stage(holder, data, {})
    for k, row in enumerate(rows.rows):  # a seed draws examples and their order, not the start
        assert torch.equal(rows.bank.prompts(torch.tensor([k]))[0].detach(), starts[list(WORDS).index(row.task)])
    holder.context.config.prompt.init = "vocabulary"
    from_vocabulary = (
        distill_stage(holder, data, teachers=None, teachers_hash="").bank.prompts(torch.tensor([0])).detach()
    )
    holder.context.config.prompt.init = "instruction"
    assert torch.equal(
        distill_stage(holder, data, teachers=None, teachers_hash="").bank.prompts(torch.tensor([0])).detach(),
        from_vocabulary,
    )


def test_an_instruction_that_does_not_fit_is_cut_with_one_warning_a_task(
    make_holder, tasks: dict[str, TaskData], capsys
) -> None:
    holder = make_holder(**{"prompt.init": "instruction", "prompt.num_virtual_tokens": 2, "prompt.rank": 1})
    for _ in range(2):
        teach_stage(holder, with_cards(tasks))
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("WARNING prompt.init")]
    assert (
        len(said) == 3
        and "the instruction of alpha has" in said[0]
        and "is cut to prompt.num_virtual_tokens (2); set prompt.num_virtual_tokens to" in said[0]
    )
    assert not any(words in line for line in said for words in WORDS.values())


def test_an_untrained_prompt_of_the_instruction_is_scored_as_the_instruction(
    make_holder, tasks: dict[str, TaskData]
) -> None:
    """With the instruction first in the layout, the prompt of its embeddings is the same input."""
    holder = make_holder(**{"prompt.init": "instruction"})
    words = WORDS["alpha"]
    ids = holder.context.tokenizer.encode(words)
    holder.context.config.prompt.num_virtual_tokens = len(ids)
    holder.context.layout.instruction_first = True
    start = holder.start_prompt("teacher", "alpha", card=SimpleNamespace(name="alpha", instruction=words))
    asked = holder.context.layout.instructed_ids(words, "note")
    assert asked[: len(ids)] == ids and asked[len(ids) :] == holder.context.layout.context_ids("note")
    assert torch.equal(start, holder.backbone().embed(torch.tensor(asked[: len(ids)])).to(start.dtype))
