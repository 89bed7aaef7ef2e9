"""``deterministic: true`` on a GPU: two backward passes over long notes give equal bits. Skipped, and said so,
without one.
"""

import pytest
import torch

from backbones import BackboneCard, share_prefix
from backbones.attention import shared_prefix
from engine.core.determinism import deterministic
from engine.data.sample import Sample
from engine.distributed.zero3 import ShardedBackbone
from engine.training.forward_backward import ForwardBackward, LossWeights
from prompt_modules import DecomposedBank, SoftPromptBank
from tests.gpu.small_models import EXPERTS, SIZES

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="no GPU: equal bits from run to run are NOT tested"
)

DEVICE = "cuda"
LENGTHS = [700, 3000, 1501, 2047, 2900, 701, 1024]  # of long notes, whose gradients are sums of many parts


@pytest.mark.parametrize("window", [None, 128])
@pytest.mark.parametrize("sink", [None, 0.0])
def test_attention_of_long_notes(sink: float | None, window: int | None) -> None:
    g = torch.Generator().manual_seed(0)
    prompts, length, slots = 2, 100, [0, 0, 0, 0, 1, 1, 1]
    n = prompts * length + sum(LENGTHS)
    given = [torch.randn(n, h, 64, generator=g).bfloat16().to(DEVICE).requires_grad_() for h in (8, 2, 2)]
    weights = torch.randn(n, 8, 64, generator=g).bfloat16().to(DEVICE)
    sinks = None if sink is None else torch.randn(8, generator=g).to(DEVICE) + sink
    prefix = share_prefix(LENGTHS, slots, n_prompts=prompts, length=length, device=DEVICE)
    passes = []
    with deterministic(True):
        for _ in range(4):
            out = shared_prefix.packed_attention(*given, sinks, prefix, window, 0.125)
            passes.append([out.detach(), *torch.autograd.grad((out * weights).sum(), given)])
    for other in passes[1:]:
        assert all(torch.equal(a, b) for a, b in zip(passes[0], other, strict=True))


@pytest.mark.parametrize(
    "config", [{"model_type": "llama"}, {"model_type": "gpt_oss", **EXPERTS}], ids=lambda c: c["model_type"]
)
def test_a_prompts_gradient_of_a_whole_distillation(config: dict) -> None:
    """Answers, the teacher's distributions and its hidden states, through every layer and the head."""
    card = BackboneCard(name="t", random={**SIZES, **config}, seed=3, tokenizer="t", dtype="bfloat16")
    backbone = ShardedBackbone(card, "", torch.device(DEVICE))
    g, grads = torch.Generator().manual_seed(0), []
    start_SLD, tokens = (
        torch.randn(1, 100, 256, generator=g),
        torch.randint(0, 512, (max(LENGTHS),), generator=g).tolist(),
    )
    teachers = SoftPromptBank(torch.randn(2, 100, 256, generator=g)).requires_grad_(False).to(DEVICE)
    weights = LossWeights(kl=0.9, hidden=0.7, temperature=1.5)
    samples = [Sample(tokens[: size - 20], tokens[-20:], row=b % 2) for b, size in enumerate(LENGTHS)]
    forward_backward = ForwardBackward(backbone, True, 16_384, 0, 1)
    try:
        for _ in range(3):
            bank = DecomposedBank(
                start_SLD.clone(), cols_KLR=torch.ones(2, 100, 1), rows_KRD=torch.ones(2, 1, 256), train_shared=True
            ).to(DEVICE)
            with deterministic(True):
                for group in forward_backward.micro_batches(samples, bank):
                    forward_backward.train(group, bank, weights, teachers, cached=None)
            grads.append(torch.cat([p.grad.flatten() for p in bank.parameters()]))
    finally:
        backbone.destroy()
    assert grads[0].abs().sum() > 0
    assert all(torch.equal(grads[0], other) for other in grads[1:])
