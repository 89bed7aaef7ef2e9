"""Fused parts of layers under ZeRO-3 with recomputed layers: their frozen weights are gone by the backward pass,
and gathered again for it.
"""

from collections.abc import Callable

import pytest

# one rank, and the kernels in Triton's interpreter
SCRIPT = """
import sys
import torch
from engine.core.privacy import protect
protect()
from backbones import BackboneCard
from backbones.layers.fused import fuse
from engine.distributed import process_group as distributed

from engine.data.sample import Sample
from engine.training.forward_backward import ForwardBackward, LossWeights
from engine.distributed.zero3 import ShardedBackbone
from prompt_modules import DecomposedBank

SIZES = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
SIZES |= {"num_attention_heads": 4, "num_key_value_heads": 2}
OSS = {"head_dim": 8, "num_local_experts": 4, "num_experts_per_tok": 2}
OSS |= {"sliding_window": 4, "max_position_embeddings": 131072}
FAMILIES = {"llama": {}, "gpt_oss": {**OSS, "quantization_config": {"quant_method": "mxfp4"}}}
distributed.start_process_group(distributed.dist_env())
samples = [Sample([5 + b, 6, 7], [8, 1], row=b % 3) for b in range(6)]
for family, more in FAMILIES.items():
    grads = []
    for fused in (False, True):
        keys = {"model_type": family, **SIZES, **more}
        card = BackboneCard(name="t", random=keys, seed=3, tokenizer="t", dtype="float32")
        backbone = ShardedBackbone(card, sys.argv[1], torch.device("cpu"), recompute=1)
        assert fuse(backbone.model) == 9 if fused else True
        start = torch.randn(1, 8, 32, generator=torch.Generator().manual_seed(0))
        bank = DecomposedBank(start, torch.ones(3, 8, 1), torch.ones(3, 1, 32), True)
        formulation = ForwardBackward(backbone, True, 64, 0, 1)
        for group in formulation.micro_batches(samples, bank):
            formulation.train(group, bank, LossWeights(), None, None)
        grads.append(torch.cat([p.grad.flatten() for p in bank.parameters()]))
        backbone.destroy()
    assert not torch.equal(*grads), "the kernels did not run"
    print(f"{family} {((grads[1] - grads[0]).norm() / grads[0].norm()).item()}")
"""


@pytest.mark.long
def test_gradients_are_those_of_transformers_operators(interpreted: Callable[..., str]) -> None:
    printed = interpreted(SCRIPT, "ds_configs/cpu.json")
    found = dict(line.split() for line in printed.splitlines() if line.startswith(("llama ", "gpt_oss ")))
    assert set(found) == {"llama", "gpt_oss"}
    assert all(float(error) <= 2e-6 for error in found.values())
