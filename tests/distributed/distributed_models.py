"""Tiny backbones, samples and stages of the jobs that real ranks run: the same on every rank."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from backbones import BackboneCard
from engine.data.sample import Sample
from engine.data.sampling import EveryRow, TaskMixture, seed_of
from engine.distributed import process_group
from engine.distributed.zero3 import ShardedBackbone
from engine.training.forward_backward import LossWeights
from engine.training.stage import Adapter, Stage, TrainerConfig
from prompt_modules import DecomposedBank, RowGroup, RowwiseAdamW, SoftPromptBank, lora_start
from prompt_modules.bank import JoinedBank

LLAMA = {
    "model_type": "llama",
    "vocab_size": 256,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 16384,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 1024,
}
GPT_OSS = {
    "model_type": "gpt_oss",
    "vocab_size": 256,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "head_dim": 16,
    "num_key_value_heads": 2,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "sliding_window": 8,
    "max_position_embeddings": 131072,
}
SCALED = {
    **GPT_OSS,
    "hidden_size": 160,
    "intermediate_size": 160,
    "num_local_experts": 32,
    "num_attention_heads": 8,
    "head_dim": 16,
    "vocab_size": 1024,
}
FAMILIES = {
    "llama": LLAMA,
    "llama3": {**LLAMA, "rope_parameters": LLAMA3_ROPE},
    "gpt_oss": GPT_OSS,
    "mxfp4": {**GPT_OSS, "quantization_config": {"quant_method": "mxfp4"}},
    # experts weigh in it as they do in gpt-oss-20B
    "scaled": SCALED,
    "scaled_mxfp4": {**SCALED, "quantization_config": {"quant_method": "mxfp4"}},
    # with a padding token, whose row of the embedding transformers would zero while it is partitioned
    "llama_tied": {**LLAMA, "tie_word_embeddings": True, "pad_token_id": 2},
}
TASKS, LENGTH = 3, 5


def card_of(family: str, dtype: str = "float32") -> BackboneCard:
    return BackboneCard(name=family, random=copy.deepcopy(FAMILIES[family]), seed=7, tokenizer="unused", dtype=dtype)


class Samples:
    """Token rows of unequal length, one split of one task."""

    def __init__(self, task: int, n: int = 12, least: int = 0):
        g = torch.Generator().manual_seed(100 + task)
        sizes = [
            (int(torch.randint(least, 14, (1,), generator=g)), int(torch.randint(1, 6, (1,), generator=g)))
            for _ in range(n)
        ]
        self.rows = [
            Sample(torch.randint(3, 256, (c,), generator=g).tolist(), torch.randint(3, 256, (a,), generator=g).tolist())
            for c, a in sizes
        ]
        self.sample_indices = list(range(n))

    def sample(self, index: int, row: int = 0) -> Sample:
        return replace(self.rows[index], row=row, index=index)


def stage_of(hidden: int, run_dir: Path, steps: int = 4, dtype: torch.dtype = torch.float32) -> Stage:
    g = torch.Generator().manual_seed(3)
    draw = lambda *shape: torch.randn(*shape, generator=g, dtype=torch.float64).to(dtype)  # noqa: E731
    part = DecomposedBank(draw(1, LENGTH, hidden), 1 + 0.1 * draw(TASKS, LENGTH, 2), 1 + 0.1 * draw(TASKS, 2, hidden))
    bank = JoinedBank({"metaprompt": part}, {"metaprompt": TASKS})
    teachers = SoftPromptBank(draw(TASKS, LENGTH, hidden)).requires_grad_(False)
    groups = {
        "shared": RowGroup({"shared_SLD": part.shared_SLD}, 0.05, steps),
        "task": RowGroup({"cols_KLR": part.cols_KLR, "rows_KRD": part.rows_KRD}, 0.02, steps),
    }
    splits = [Samples(k) for k in range(TASKS)]
    rows = [
        Adapter(
            f"task{k}", "metaprompt", "full", 0, splits[k], splits[k].sample_indices, seed_of("stream", k), splits[k]
        )
        for k in range(TASKS)
    ]  # type: ignore[arg-type]
    sampler = TaskMixture([12] * TASKS, batch=10, how="uniform", cap=100, subsets=True, seed=5)
    return Stage(
        "distill",
        run_dir,
        bank,
        rows,
        RowwiseAdamW(groups),
        {"shared": None, "task": range(TASKS)},
        sampler,
        steps,
        LossWeights(0.9, 0.7, 1.5),
        teachers,
    )


def mixed_stage_of(backbone: ShardedBackbone) -> Stage:
    """Two ordinary prompts and three rows of LoRA that have left their start."""
    hidden, g = backbone.model.config.hidden_size, torch.Generator().manual_seed(4)
    lora = lora_start(
        3,
        backbone.updates.shapes,
        rank=2,
        hidden=hidden,
        generators=[torch.Generator().manual_seed(k) for k in range(3)],
    )
    with torch.no_grad():
        for _, up in lora.layers().values():
            up.copy_(0.3 * torch.randn(up.shape, generator=g))
    parts = {"prompt_tuning": SoftPromptBank(torch.randn(2, LENGTH, hidden, generator=g)), "lora": lora}
    trained = {m: {n: p for n, p in part.named_parameters() if p.requires_grad} for m, part in parts.items()}
    bank = JoinedBank(parts, {"prompt_tuning": 2, "lora": 3})
    splits = [Samples(k, least=1) for k in range(5)]
    rows = [
        Adapter(f"task{k}", "lora" if k > 1 else "prompt_tuning", "full", 0, s, s.sample_indices, seed_of("stream", k))
        for k, s in enumerate(splits)
    ]  # type: ignore[arg-type]
    groups = {m: RowGroup(p, 0.02, 4) for m, p in trained.items()}
    return Stage("adapt", Path("unused"), bank, rows, RowwiseAdamW(groups), dict(bank.spans()), EveryRow(5, 3), 4)


def settings_of(budget: int, packed: bool = True, **more: Any) -> TrainerConfig:
    where = process_group.dist_env()
    return TrainerConfig(budget, packed, 1, False, 1000, 1, where.rank, where.world, **more)
