"""The same frozen model, prompts and samples for every method of a comparison, and what a step of each has to
compute.
"""

from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

from backbones import BackboneCard
from engine.data import Sample, weight_answer_tokens
from engine.distributed import ShardedBackbone
from engine.training import LossWeights
from prompt_modules import DecomposedBank, SoftPromptBank


@dataclass(frozen=True)
class Shape:
    """A backbone, and L virtual tokens before K tasks' n samples a step."""

    card: dict[str, Any]
    dtype: Literal["float32", "bfloat16"]
    length: int
    samples: int
    tasks: int


# of a card: gpt-oss's experts stay packed, as they were released
MXFP4 = {"quantization_config": {"quant_method": "mxfp4"}}
_LLAMA = {"model_type": "llama", "tie_word_embeddings": False, "max_position_embeddings": 8192}
SHAPES = {
    "pocket": Shape(
        {
            **_LLAMA,
            "hidden_size": 192,
            "intermediate_size": 512,
            "num_hidden_layers": 6,
            "num_attention_heads": 6,
            "num_key_value_heads": 6,
            "vocab_size": 640,
        },
        "float32",
        16,
        32,
        4,
    ),
    "cpu_mid": Shape(
        {
            **_LLAMA,
            "hidden_size": 512,
            "intermediate_size": 1408,
            "num_hidden_layers": 8,
            "num_attention_heads": 8,
            "num_key_value_heads": 8,
            "vocab_size": 32000,
        },
        "float32",
        100,
        32,
        4,
    ),
    "llama_8b": Shape(
        {
            **_LLAMA,
            "hidden_size": 4096,
            "intermediate_size": 14336,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "vocab_size": 128256,
        },
        "bfloat16",
        100,
        32,
        4,
    ),
    "gpt_oss_20b": Shape(
        {
            "model_type": "gpt_oss",
            "hidden_size": 2880,
            "intermediate_size": 2880,
            "num_hidden_layers": 24,
            "num_attention_heads": 64,
            "num_key_value_heads": 8,
            "head_dim": 64,
            "num_local_experts": 32,
            "num_experts_per_tok": 4,
            "sliding_window": 128,
            "vocab_size": 201088,
            "max_position_embeddings": 131072,
            **MXFP4,
        },
        "bfloat16",
        100,
        32,
        4,
    ),
}
REGIMES = {"short": (60, 6), "medium": (200, 12), "long": (1500, 40)}  # mean tokens of a sample R, and of its answer
WEIGHTS = LossWeights(0.9, 0.9, 1.0)


class Invented:
    """Token rows of one task, standing for a split."""

    def __init__(self, task: int, samples: list[Sample]):
        self.samples, self.key, self.sample_indices = samples, f"invented-{task}", list(range(len(samples)))

    def sample(self, index: int, row: int = 0) -> Sample:
        return replace(self.samples[index], row=row, index=index)

    def answer_lengths(self) -> list[int]:
        return [len(s.answer_ids) for s in self.samples]

    def context_lengths(self) -> list[int]:
        return [len(s.context_ids) for s in self.samples]


class Workload:
    """A step's samples (half to one and a half times R tokens), the backbone with seeded weights, student and
    teachers.
    """

    def __init__(self, shape: Shape, regime: str, device: torch.device, deepspeed: str = ""):
        self.shape, self.regime, self.device = shape, regime, device
        g = torch.Generator().manual_seed(0)
        mean, answer = REGIMES[regime]
        vocabulary = shape.card["vocab_size"]

        def draw(n: int) -> list[int]:
            return torch.randint(3, vocabulary, (n,), generator=g).tolist()  # type: ignore[no-any-return]

        self.splits = [Invented(k, []) for k in range(shape.tasks)]
        for b in range(shape.samples):
            size = int(torch.randint(mean // 2, mean + mean // 2, (1,), generator=g))
            own = max(1, round(answer * size / mean))
            self.splits[b % shape.tasks].samples.append(Sample(draw(size - own), draw(own)))
        for split in self.splits:
            split.sample_indices = list(range(len(split.samples)))
        samples: list[Sample] = []
        for row, split in enumerate(self.splits):
            samples += [split.sample(index, row) for index in split.sample_indices]
        self.samples = weight_answer_tokens(samples)
        self.answer_tokens = sum(len(sample.answer_ids) for sample in self.samples)
        self.real_tokens = sum(len(sample) for sample in self.samples)
        card = BackboneCard(
            name="benchmark", random=dict(shape.card), seed=0, tokenizer="none", dtype=shape.dtype, dummy=True
        )
        self.backbone = ShardedBackbone(card, deepspeed, device)
        hidden = shape.card["hidden_size"]
        self.teachers = (
            SoftPromptBank(0.02 * torch.randn(shape.tasks, shape.length, hidden, generator=g))
            .to(device)
            .requires_grad_(False)
        )
        self.start_LD = 0.02 * torch.randn(shape.length, hidden, generator=g)

    def student(self, stage: str) -> Any:
        """The bank that a stage trains."""
        k, length, hidden = self.shape.tasks, self.shape.length, self.shape.card["hidden_size"]
        if stage == "teach":
            return SoftPromptBank(self.start_LD.repeat(k, 1, 1)).to(self.device)
        return DecomposedBank(
            self.start_LD[None],
            cols_KLR=torch.ones(k, length, 1),
            rows_KRD=torch.ones(k, 1, hidden),
            train_shared=stage == "distill",
        ).to(self.device)


def operations(
    shape: Shape, rows: list[list[int]], prefixed: bool, head_rows: int, head_products: float, passes: float
) -> float:
    """Multiply-adds x 2 of a step.

    Args:
        rows: of each packed row its samples' tokens; of a padded batch each sample as wide as its batch. prefixed: the
            prompt once per task and row (else once per sample). head_rows: rows through the head; head_products:
            vocabulary products per row.
        passes: 2 for forward and backward to activations, 1 more for a teacher's forward.
    """
    c, length = shape.card, shape.length
    d, layers = c["hidden_size"], c["num_hidden_layers"]
    head_dim = c.get("head_dim", d // c["num_attention_heads"])
    inner, kv = c["num_attention_heads"] * head_dim, c["num_key_value_heads"] * head_dim
    experts = c.get("num_experts_per_tok", 1)
    linear = 2 * (2 * d * inner + 2 * d * kv + 3 * d * c["intermediate_size"] * experts)
    tokens = attention = 0.0
    for sizes in rows:
        prompts = shape.tasks if prefixed else len(sizes)
        tokens += sum(sizes) + length * prompts
        # what a causal kernel computes: a query sees its prompt and on average half of its sample
        attention += sum(n * (length + n / 2) for n in sizes) + prompts * length * length / 2
    # the backward pass of attention does five products where the forward pass does two
    attention_passes = (passes - 1) + 2.5
    return (
        layers * (tokens * linear * passes + attention * 4 * inner * attention_passes)
        + head_rows * 2 * d * c["vocab_size"] * head_products
    )
