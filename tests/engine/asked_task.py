"""An invented task that is asked, and two prompts to ask: fixtures of the tests of answers."""

import json
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from clinical_tasks import Example
from engine.data.dataset import Split, TaskData
from prompt_modules import SoftPromptBank
from prompt_modules.bank import JoinedBank

OPTIONS = ("yes", "no", "maybe not")
DROPPED = 3
INSTRUCTION = "the dose of asthma"
SOLVED = [("pain in the knee ?", "no"), ("fever and cough ?", "yes")]


@pytest.fixture
def bank() -> JoinedBank:
    """Two prompts, far apart."""
    drawn = torch.from_numpy(np.random.default_rng(3).standard_normal((2, 5, 64)))
    return JoinedBank({"teacher": SoftPromptBank(0.5 * drawn)}, {"teacher": 2})


@pytest.fixture
def task(make_holder) -> Callable[[str], TaskData]:
    """``task("likelihood")``: eight test examples, of which one did not fit."""
    layout = make_holder("layout").context.layout

    def make(answer: str) -> TaskData:
        from datasets import Dataset

        rng = np.random.default_rng(1)
        columns: dict[str, list] = {"context_ids": [], "answer_ids": [], "example": [], "fits": []}
        for i in range(8):
            options = OPTIONS[: 2 + i % 2] if answer == "likelihood" else ()
            example = Example("mine", f"e{i}", f"d{i}", 0, f"pain {i} ?", "yes", options, {})
            columns["context_ids"].append(rng.integers(3, 1000, rng.integers(1, 9)).tolist())
            columns["answer_ids"].append(layout.answer_ids("yes"))
            columns["example"].append(json.dumps(example.__dict__))
            columns["fits"].append(i != DROPPED)
        return TaskData(
            SimpleNamespace(answer=answer, instruction=INSTRUCTION), {"test": Split(Dataset.from_dict(columns))}
        )  # type: ignore[arg-type]

    return make
