"""Answers and likelihoods from slots are the plain ones: one sequence at a time, transformers' own generation, no
cache shared.
"""

from typing import Any

import pytest
import torch

from backbones import BackboneCard
from engine.distributed.zero3 import ShardedBackbone
from engine.evaluation.generation import Greedy
from engine.evaluation.multiple_choice import Choice, option_likelihoods

LENGTH, END = 4, 2
SMALL = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 96,
    "max_position_embeddings": 256,
    "tie_word_embeddings": False,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama"},
    "qwen3": {"model_type": "qwen3", "head_dim": 16},
    "mistral": {"model_type": "mistral", "sliding_window": 7},
    "gpt_oss": {
        "model_type": "gpt_oss",
        "head_dim": 16,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "sliding_window": 6,
    },
}


@pytest.fixture(scope="module")
def backbones() -> dict[str, ShardedBackbone]:
    made = {}
    for name, own in FAMILIES.items():
        card = BackboneCard(name=name, random={**SMALL, **own}, tokenizer="none", dtype="float32", seed=3)
        made[name] = ShardedBackbone(card, deepspeed_file="", device=torch.device("cpu"), dtype=torch.float64)
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in made[name].model.parameters():  # sure of something, and ends that come
                parameter.add_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * 0.15)
    return made


def alone(
    backbone: ShardedBackbone, context: list[int], prompt_LD: torch.Tensor, new: int, end: int = END
) -> list[int]:
    return cut(
        backbone.generate(
            [context], prompts_BLD=prompt_LD[None], max_new_tokens=new, end_id=end, pad_id=end, synced=False
        )[0].tolist(),
        end,
    )


def cut(ids: list[int], end: int) -> list[int]:
    return ids[: ids.index(end) + 1] if end in ids else ids


def telling_end(free: list[list[int]]) -> int:
    """Of all tokens the one whose first appearance differs most from sequence to sequence: ends at many different
    steps.
    """
    return max(sorted({i for ids in free for i in ids}), key=lambda end: len({len(cut(ids, end)) for ids in free}))


@pytest.mark.parametrize(
    "family", ["llama", *(pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES if name != "llama")]
)
@pytest.mark.parametrize(
    ("width", "budget", "length"),
    [(1, 1000, LENGTH), (3, 1000, LENGTH), (5, 20, LENGTH), (64, 1000, LENGTH), (3, 30, 0)],
)
def test_answers_equal_those_of_each_sequence_alone(
    family: str, width: int, budget: int, length: int, backbones: dict[str, ShardedBackbone]
) -> None:
    backbone, g = backbones[family], torch.Generator().manual_seed(5)
    contexts = [torch.randint(3, 96, (int(n),), generator=g).tolist() for n in torch.randint(1, 24, (17,), generator=g)]
    prompt_LD = torch.randn(length, 32, generator=g, dtype=torch.float64)
    end = telling_end([alone(backbone, c, prompt_LD, 12, 10_000) for c in contexts])
    found = dict(
        Greedy(
            backbone,
            prompt_LD,
            max_new_tokens=12,
            end_id=end,
            width=width,
            max_tokens_per_micro_batch=budget,
            synced=False,
        )(contexts)
    )
    wanted = {i: alone(backbone, c, prompt_LD, 12, end) for i, c in enumerate(contexts)}
    assert found == wanted
    assert len({len(ids) for ids in wanted.values()}) > 2, "sequences that all end together would test no refilling"


def test_an_empty_context_is_answered_from_the_prompts_end(backbones: dict[str, ShardedBackbone]) -> None:
    prompt_LD = torch.randn(LENGTH, 32, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    contexts: list[list[int]] = [[], [5, 6, 7], []]
    found = dict(
        Greedy(
            backbones["llama"],
            prompt_LD,
            max_new_tokens=6,
            end_id=END,
            width=2,
            max_tokens_per_micro_batch=100,
            synced=False,
        )(contexts)
    )
    assert found == {i: alone(backbones["llama"], c, prompt_LD, 6) for i, c in enumerate(contexts)}


def test_nothing_to_answer(backbones: dict[str, ShardedBackbone]) -> None:
    assert (
        list(
            Greedy(
                backbones["llama"],
                prompt_LD=torch.zeros(LENGTH, 32),
                max_new_tokens=6,
                end_id=END,
                width=2,
                max_tokens_per_micro_batch=100,
                synced=False,
            )([])
        )
        == []
    )


def test_a_recomputing_backbone_answers_too() -> None:
    """It is in training mode, in which its layers recompute; without gradients that must change nothing."""
    card = BackboneCard(name="llama", random={**SMALL, "model_type": "llama"}, tokenizer="none", dtype="float32")
    prompt_LD = torch.randn(LENGTH, 32, generator=torch.Generator().manual_seed(2))
    answers = []
    for recompute in (0, 2):
        backbone = ShardedBackbone(card, deepspeed_file="", device=torch.device("cpu"), recompute=recompute)
        answers.append(
            sorted(
                Greedy(
                    backbone,
                    prompt_LD,
                    max_new_tokens=5,
                    end_id=END,
                    width=2,
                    max_tokens_per_micro_batch=100,
                    synced=False,
                )([[3, 4], [5], [6, 7, 8]])
            )
        )
    assert answers[0] == answers[1]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("budget", "length"), [(1000, LENGTH), (40, LENGTH), (1, LENGTH), (60, 0)])
def test_likelihoods_of_options_equal_each_one_alone(
    family: str, budget: int, length: int, backbones: dict[str, ShardedBackbone]
) -> None:
    """Options of one to nine tokens, two to five of them, behind contexts of every length; windows reach into
    prompt, context and option.
    """
    backbone, g = backbones[family], torch.Generator().manual_seed(8)
    draw = lambda n: torch.randint(3, 96, (int(n),), generator=g).tolist()  # noqa: E731
    sizes = torch.randint(1, 20, (9,), generator=g)
    choices = [
        Choice(draw(n), [[*draw(torch.randint(0, 9, (), generator=g)), END] for _ in range(2 + int(n) % 4)])
        for n in sizes
    ]
    prompt_LD = torch.randn(length, 32, generator=g, dtype=torch.float64)
    found = option_likelihoods(backbone, prompt_LD, choices, max_tokens_per_micro_batch=budget, rank=0, world=1)
    for choice, scores in zip(choices, found, strict=True):
        assert len(scores) == len(choice.options)
        for option, score in zip(choice.options, scores, strict=True):
            ids = torch.tensor(choice.context + option)
            with torch.no_grad():
                embeds = torch.cat([prompt_LD, backbone.model.get_input_embeddings()(ids)])[None]
                logp = backbone.model(inputs_embeds=embeds, use_cache=False).logits[0].log_softmax(-1)
            begin = length + len(choice.context) - 1
            wanted = sum(logp[begin + n, token].item() for n, token in enumerate(option))
            assert abs(score - wanted) < 1e-6 * max(1.0, abs(wanted))  # norms are fp32


def test_no_choices(backbones: dict[str, ShardedBackbone]) -> None:
    assert (
        option_likelihoods(
            backbones["llama"],
            prompt_LD=torch.zeros(LENGTH, 32),
            choices=[],
            max_tokens_per_micro_batch=100,
            rank=0,
            world=1,
        )
        == []
    )
